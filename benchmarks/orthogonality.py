"""How near to orthogonal the convolutions of a network are, measured after a few optimizer steps.

Speed without orthogonality is worth nothing, and a layer may be orthogonal in one mode alone, or at the start alone. So
these figures are taken after SGD steps, in training and in evaluation, in the layers' own precision.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODES = ("training", "evaluation")
STRIDES = ("stride 1", "stride 2")
# Layers of four kinds, small enough for dense Jacobians: 16 channels on maps of 8 x 8, then 32 on maps of 4 x 4.
_SMALL: dict[str, Any] = {"depth": 4, "stages": 2, "initial_channels": 16, "in_channels": 16, "image_size": 8}
_CLASSES = 10
_BATCH = 16
# A new direction of no more than this part of its vector is rounding: the directions before it span all that there is.
_INVARIANT = 1e-5


def train(model: nn.Module, input_shape: tuple[int, int, int], steps: int) -> None:
    """SGD steps with the published learning rate and momentum, on images and labels of noise."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.rand(_BATCH, *input_shape)), torch.randint(_CLASSES, (_BATCH,))).backward()
        optimizer.step()


def convolutions(model: nn.Sequential, input_shape: tuple[int, int, int]) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """The convolutions of a LipConvNet, each with the shape (C, H, W) of the maps that it is given."""
    found = []
    maps = torch.zeros(1, *input_shape)
    with torch.no_grad():
        for stage in model:
            # A stage is convolution, activation, convolution, activation, ...
            for place, layer in enumerate(stage if isinstance(stage, nn.Sequential) else ()):
                if place % 2 == 0:
                    found.append((layer, tuple(maps.shape[1:])))
                maps = layer(maps)
            if not isinstance(stage, nn.Sequential):
                maps = stage(maps)
    return found


@torch.no_grad()
def singular_values(layer: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """All singular values of an affine layer's Jacobian on maps (C, H, W), in descending order.

    A map of n numbers to m has min(n, m) of them: all are 1 if the layer has orthonormal rows or columns. The columns
    come from one call of the layer, as a layer in training may change at each call.
    """
    size = prod(input_shape)
    zero_and_basis = torch.cat([torch.zeros(1, size), torch.eye(size)]).view(-1, *input_shape)
    images = layer(zero_and_basis).flatten(1).double()
    return torch.linalg.svdvals(images[1:] - images[0])


def largest_singular_value(layer: nn.Module, input_shape: tuple[int, ...], steps: int = 40) -> float:
    """The largest singular value of an affine layer's Jacobian J, from below: its norm on a Krylov space of J^T J.

    Power iteration would need hundreds of steps where many singular values lie close to the largest.
    """
    with torch.no_grad():
        constant = layer(torch.zeros(1, *input_shape)).flatten()
    direction = torch.randn(prod(input_shape))
    directions, images = torch.empty(0, len(direction)), []
    for _ in range(min(steps, len(direction))):
        direction = (direction / direction.norm()).requires_grad_()
        image = layer(direction.view(1, *input_shape)).flatten() - constant
        (back,) = torch.autograd.grad(image, direction, image.detach())
        images.append(image.detach())
        directions = torch.cat([directions, direction.detach()[None]])
        direction = back
        for _ in range(2):
            direction = direction - directions.T @ (directions @ direction)
        if direction.norm() <= _INVARIANT * back.norm():
            break
    return float(torch.linalg.matrix_norm(torch.stack(images).double(), ord=2))


def network_norm(model: nn.Module, images: Tensor) -> float:
    """The largest singular value of the Jacobian from images to logits, over these images (B, C, H, W)."""
    images = images.clone().requires_grad_()
    logits = model(images)
    rows = [
        torch.autograd.grad(logits[:, label].sum(), images, retain_graph=True)[0].flatten(1)
        for label in range(logits.shape[1])
    ]
    return float(torch.linalg.matrix_norm(torch.stack(rows, dim=1).double(), ord=2).max())


def layer_figures(make: Callable[..., nn.Sequential], steps: int) -> dict[str, dict[str, list[float]]]:
    """In each mode, the smallest and the largest singular value among the layers with stride 1, and with stride 2."""
    torch.manual_seed(0)
    shape = (_SMALL["in_channels"], _SMALL["image_size"], _SMALL["image_size"])
    model = make(num_classes=_CLASSES, **_SMALL)
    train(model, shape, steps)
    figures: dict[str, dict[str, list[float]]] = {}
    for mode in MODES:
        model.train(mode == "training")
        values = [singular_values(*found) for found in convolutions(model, shape)]
        # The last layer of each of the two stages has stride 2.
        of_stride = [torch.cat(values[offset::2]) for offset in range(len(STRIDES))]
        extremes = [[float(each.min()), float(each.max())] for each in of_stride]
        figures[mode] = dict(zip(STRIDES, extremes, strict=True))
    return figures


def network_figures(
    make: Callable[..., nn.Sequential], steps: int, export: Callable[[nn.Sequential], nn.Sequential]
) -> dict[str, float]:
    """The norm of the whole network's Jacobian in each mode, and the product of its convolutions' norms in evaluation.

    The product is what a certificate has to use; the Jacobian's norm at a few images is what can be seen of the truth.
    The layers of the product are those of ``export(model)``.
    """
    torch.manual_seed(0)
    shape = (3, 32, 32)
    model = make(num_classes=_CLASSES)
    train(model, shape, steps)
    model.requires_grad_(False)  # a layer that need not differentiate its weights may compute them once
    images = torch.rand(4, *shape)
    figures = {mode: network_norm(model.train(mode == "training"), images) for mode in MODES}
    layers = convolutions(export(model.eval()), shape)
    return figures | {"product": prod(largest_singular_value(*found) for found in layers)}
