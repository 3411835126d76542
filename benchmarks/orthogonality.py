"""Singular values of a network's convolutions after a few optimizer steps.

A layer may be orthogonal in one mode only, or before training only. So these functions measure after SGD steps, in
training and in evaluation mode, in the layers' own precision.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODES = ("training", "evaluation")
STRIDES = ("stride 1", "stride 2")
# Four layers, small enough for dense Jacobians: two from 16 channels on 8 x 8 pixels, two from 32 on 4 x 4.
_SMALL: dict[str, Any] = {"depth": 4, "stages": 2, "initial_channels": 16, "in_channels": 16, "image_size": 8}
_CLASSES = 10
_BATCH = 16
# If orthogonalisation leaves less than this share of a new direction, that is rounding: the Krylov space is complete.
_INVARIANT = 1e-5


def train(model: nn.Module, input_shape: tuple[int, int, int], steps: int) -> None:
    """Take SGD steps with the published learning rate and momentum, on random images and labels."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.rand(_BATCH, *input_shape)), torch.randint(_CLASSES, (_BATCH,))).backward()
        optimizer.step()


def convolutions(model: nn.Sequential, input_shape: tuple[int, int, int]) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Return the convolutions of a LipConvNet, each with the shape (C, H, W) of its input."""
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
    """Return all singular values of an affine layer's Jacobian for inputs (C, H, W), in descending order.

    All are 1 if the Jacobian has orthonormal rows or columns. All columns come from one call of the layer, because a
    layer in training may change at each call.
    """
    size = prod(input_shape)
    zero_and_basis = torch.cat([torch.zeros(1, size), torch.eye(size)]).view(-1, *input_shape)
    images = layer(zero_and_basis).flatten(1).double()
    values: Tensor = torch.linalg.svdvals(images[1:] - images[0])
    return values


def largest_singular_value(layer: nn.Module, input_shape: tuple[int, ...], steps: int = 40) -> float:
    """Return a lower bound on the largest singular value of an affine layer's Jacobian J, on a Krylov space of J^T J.

    Power iteration would need hundreds of steps if many singular values are close to the largest.
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
    """Return the largest singular value of the Jacobian from images (B, C, H, W) to logits, over the batch."""
    images = images.clone().requires_grad_()
    logits = model(images)
    rows = [
        torch.autograd.grad(logits[:, label].sum(), images, retain_graph=True)[0].flatten(1)
        for label in range(logits.shape[1])
    ]
    return float(torch.linalg.matrix_norm(torch.stack(rows, dim=1).double(), ord=2).max())


def layer_figures(make: Callable[..., nn.Sequential], steps: int) -> dict[str, dict[str, list[float]]]:
    """Return the smallest and the largest singular value of the layers of each stride, in each mode."""
    torch.manual_seed(0)
    shape = (_SMALL["in_channels"], _SMALL["image_size"], _SMALL["image_size"])
    model = make(num_classes=_CLASSES, **_SMALL)
    train(model, shape, steps)
    figures: dict[str, dict[str, list[float]]] = {}
    for mode in MODES:
        model.train(mode == "training")
        values = [singular_values(*found) for found in convolutions(model, shape)]
        # Each of the two stages has a layer of stride 1, then one of stride 2.
        of_stride = [torch.cat(values[offset::2]) for offset in range(len(STRIDES))]
        extremes = [[float(each.min()), float(each.max())] for each in of_stride]
        figures[mode] = dict(zip(STRIDES, extremes, strict=True))
    return figures


def network_figures(
    make: Callable[..., nn.Sequential], steps: int, export: Callable[[nn.Sequential], nn.Sequential]
) -> dict[str, float]:
    """Return the norm of the network's Jacobian in each mode, and the product of its layers' norms in evaluation.

    The norm at a few images is a lower bound on the Lipschitz constant; a certificate has to use the product, which is
    over the convolutions of ``export(model)``.
    """
    torch.manual_seed(0)
    shape = (3, 32, 32)
    model = make(num_classes=_CLASSES)
    train(model, shape, steps)
    model.requires_grad_(False)  # lets layers cache what they compute from their weights
    images = torch.rand(4, *shape)
    figures = {mode: network_norm(model.train(mode == "training"), images) for mode in MODES}
    layers = convolutions(export(model.eval()), shape)
    return figures | {"product": prod(largest_singular_value(*found) for found in layers)}
