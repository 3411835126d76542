"""LipConvNet: the provably 1-Lipschitz convolutional network."""

from collections.abc import Callable, Sequence
from inspect import signature

import torch
from torch import nn

from lipnet.functional import product_up
from lipnet.layers import SOC, MaxMin, Normalize, SOCLinear
from lipnet.layers.base import own_bound

LayerFactory = Callable[..., nn.Module]


class LipConvNet(nn.Sequential):
    """LipConvNet-N: stages of orthogonal convolutions with norm-preserving activations, and a linear head.

    N layers in ``stages`` stages of N / stages: the last layer of a stage has stride 2 and doubles the channels; the
    very last has a 1 x 1 kernel; then the head on the flattened features. With 5 stages (N = 5 x blocks), 32 initial
    channels and 32 x 32 images this is the published network. Pixels in [0, 1] come in; the first module normalises
    them.

    It is an ``nn.Sequential`` with the children ``normalize``, ``stage1``, ..., ``flatten``, ``head``, and ``pooling``
    before ``flatten`` if there is one.

    Args:
        num_classes: number of logits.
        depth: N, a multiple of ``stages``.
        initial_channels: channels of the first stage.
        in_channels: channels of the images.
        image_size: height and width of the images, divisible by 2 ** stages.
        stages: number of stages; 3 fit images of 8 x 8.
        conv: ``conv(in_channels, out_channels, kernel_size=k, stride=s)`` makes a convolution.
        activation: ``activation()`` makes an activation; where it has an argument ``channels``, as activations with
            parameters have, ``activation(channels=c)``.
        pooling: ``pooling()`` makes a module without parameters that reduces the last stage's maps before the head,
            such as `lipnet.layers.NormPool2d`; None for the maps as they are.
        head: ``head(in_features, num_classes)`` makes the last layer.
        mean: the images' mean, one number per channel.
        std: the images' standard deviation, one number.

    Shape:
        (B, in_channels, image_size, image_size) to (B, num_classes).

    Raises:
        ValueError: for a depth or an image size that the stages do not divide, and for inputs of another shape.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; with GS-SOC: Gorbunov et al., NeurIPS 2024.

    Example:
        >>> from functools import partial
        >>> from lipnet.layers import GSSOC, MaxMinPermuted
        >>> model = LipConvNet(10, depth=5, initial_channels=8, conv=partial(GSSOC, groups=(4, None)),
        ...                    activation=MaxMinPermuted, mean=(0.5, 0.5, 0.5), std=0.25)
        >>> model.eval().lipschitz_bound()
        4.0
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        depth: int = 15,
        initial_channels: int = 32,
        in_channels: int = 3,
        image_size: int = 32,
        stages: int = 5,
        conv: LayerFactory = SOC,
        activation: LayerFactory = MaxMin,
        pooling: LayerFactory | None = None,
        head: LayerFactory = SOCLinear,
        mean: Sequence[float] | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        _check_shape(depth, stages, image_size)
        mean = [0.0] * in_channels if mean is None else list(mean)
        if len(mean) != in_channels:
            raise ValueError(f"mean needs one number for each of {in_channels} channels, got {mean}")
        self.add_module("normalize", Normalize(mean, std, image_size))
        channels, width = in_channels, initial_channels
        for stage in range(1, stages + 1):
            kernel_size = 1 if stage == stages else 3
            layers = _stage(channels, width, depth // stages, kernel_size, conv, activation)
            self.add_module(f"stage{stage}", nn.Sequential(*layers))
            channels, width = 2 * width, 2 * width
        maps = torch.empty(1, channels, image_size // 2**stages, image_size // 2**stages, device="meta")
        if pooling is not None:
            pool = pooling()
            self.add_module("pooling", pool)
            maps = pool(maps)
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", head(maps.numel(), num_classes))

    def lipschitz_bound(self) -> float:
        """An upper bound on the Lipschitz constant from pixels to logits: the product of the modules' own bounds.

        Raises:
            TypeError: for a module that is not lipnet's; `lipnet.certify.lipschitz_bound` has rules for torch's.
        """
        return product_up(own_bound(module) for module in self)


def _stage(
    in_channels: int, width: int, layers: int, last_kernel_size: int, conv: LayerFactory, activation: LayerFactory
) -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = in_channels
    for _ in range(layers - 1):
        modules += [conv(channels, width, kernel_size=3, stride=1), _activation(activation, width)]
        channels = width
    last = conv(channels, 2 * width, kernel_size=last_kernel_size, stride=2)
    return [*modules, last, _activation(activation, 2 * width)]


def _activation(make: LayerFactory, channels: int) -> nn.Module:
    return make(channels=channels) if "channels" in signature(make).parameters else make()


def _check_shape(depth: int, stages: int, image_size: int) -> None:
    if stages < 1 or depth < stages or depth % stages:
        raise ValueError(f"depth must be a multiple of the {stages} stages, got depth {depth}")
    if image_size < 1 or image_size % 2**stages:
        raise ValueError(
            f"image_size must be divisible by 2 ** stages = {2**stages} (every stage halves it), got {image_size}"
        )
