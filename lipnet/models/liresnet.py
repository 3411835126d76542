"""LiResNet: a stem, blocks of constant width, a neck, a dense part and a head. With BRO blocks, it is BRONet."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from torch import nn

from lipnet.layers import Centering, LiRes, MaxMin, NormalizedLinear, PatchEmbedding, ScaledConv2d
from lipnet.models.parts import (
    LayerFactory,
    LipschitzSequential,
    average_with_mirror,
    check_integers,
    make_activation,
    make_normalize,
)


class LiResNet(LipschitzSequential):
    """LiResNet, or with other blocks BRONet and similar networks.

    For C = ``channels``, W = ``dense_features``, images of S x S, a stem of stride s and a neck of patch size p:

    | child | layers | output |
    | --- | --- | --- |
    | ``normalize`` | (x - mean) / std, from pixels in [0, 1] | S x S |
    | ``stem`` | convolution of stride s, activation | C, S/s x S/s |
    | ``block1``, ... | convolution 3 x 3, centring, activation; ``depth`` times | the same |
    | ``neck`` | patches p x p to C channels, then all pixels to W features, activation | W, 1 x 1 |
    | ``dense1``, ... | layer of W features, activation; ``dense_depth`` times | the same |
    | ``flatten``, ``head`` | linear layer to the logits | ``num_classes`` |

    The published network has 12 blocks of 512 channels and 8 dense layers of 2048 features.

    Args:
        num_classes: number of logits.
        depth: number of blocks.
        channels: C.
        in_channels: channels of the images.
        image_size: height and width of the images, S, divisible by s p.
        stem_kernel_size, stem_stride: of the stem; 5 and s = 2 as published, for images of 32 x 32.
        neck_patch_size: p, 4 as published.
        dense_features, dense_depth: W, and the number of dense layers; 0 for none.
        block: makes a block's layer: ``block(channels, channels, kernel_size=3)``, such as `LiRes`, `SOC` or `GSSOC`.
            If it takes ``depth`` and ``size`` (the height and width of its maps), it also gets these.
        dense: makes a dense layer in the same way, with ``kernel_size=1``; None takes ``block``.
        transition: makes the layers that change the shape, in the stem and the neck:
            ``transition(in_channels, out_channels, kernel_size=k, stride=s, padding=p)``. If it takes ``size``, it also
            gets the height and width of its input.
        activation: makes an activation, as in `LipConvNet`.
        centering: subtract a running mean after each block, see `Centering`.
        patch_rotation: rotate patches of s x s pixels to their principal components before the stem, which then has
            stride 1 and a kernel of 3 x 3, see `PatchEmbedding`.
        head: ``head(in_features, num_classes)`` makes the last layer.
        mirror: in evaluation, the head sees the average of the features of an image and of its mirror image.
        mean: mean of the images, one number per channel.
        std: standard deviation of the images, one number.

    Shape:
        (B, in_channels, image_size, image_size) to (B, num_classes).

    Raises:
        ValueError: for sizes that do not fit, and for inputs of another shape.

    Source: Hu et al., "Unlocking deterministic robustness certification on ImageNet", NeurIPS 2023 (arXiv 2301.12549);
    BRONet: Lai et al., ICML 2025 (arXiv 2505.15174).

    Example:
        >>> model = LiResNet(10, depth=2, channels=8, dense_features=16, dense_depth=1, image_size=16, std=0.25).eval()
        >>> 4.0 <= model.lipschitz_bound() < 16.0
        True
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        depth: int = 12,
        channels: int = 512,
        in_channels: int = 3,
        image_size: int = 32,
        stem_kernel_size: int = 5,
        stem_stride: int = 2,
        neck_patch_size: int = 4,
        dense_features: int = 2048,
        dense_depth: int = 8,
        block: LayerFactory = LiRes,
        dense: LayerFactory | None = None,
        transition: LayerFactory = ScaledConv2d,
        activation: LayerFactory = MaxMin,
        centering: bool = True,
        patch_rotation: bool = False,
        head: LayerFactory = NormalizedLinear,
        mirror: bool = False,
        mean: Sequence[float] | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_integers(channels=channels, stem_kernel_size=stem_kernel_size, dense_features=dense_features)
        _check_sizes(image_size, stem_stride, neck_patch_size, depth, dense_depth)
        self.add_module("normalize", make_normalize(mean, std, in_channels, image_size))
        size = image_size // stem_stride
        stem = _stem(transition, in_channels, channels, stem_kernel_size, stem_stride, image_size, patch_rotation)
        self.add_module("stem", stem.append(make_activation(activation, channels)))
        for number in range(1, depth + 1):
            layers = [_make(block, channels, channels, kernel_size=3, depth=depth, size=size)]
            layers += [Centering(channels)] if centering else []
            self.add_module(f"block{number}", nn.Sequential(*layers, make_activation(activation, channels)))
        neck = _neck(transition, channels, dense_features, neck_patch_size, size)
        self.add_module("neck", neck.append(make_activation(activation, dense_features)))
        for number in range(1, dense_depth + 1):
            layer = _make(dense or block, dense_features, dense_features, kernel_size=1, depth=dense_depth, size=1)
            self.add_module(f"dense{number}", nn.Sequential(layer, make_activation(activation, dense_features)))
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", head(dense_features, num_classes))
        if mirror:
            average_with_mirror(self)


def _stem(
    transition: LayerFactory, inputs: int, outputs: int, kernel_size: int, stride: int, size: int, rotated: bool
) -> nn.Sequential:
    """Make the layers that reduce maps of a size by a stride."""
    if rotated:
        patches = PatchEmbedding(inputs, stride, rotation=True)
        conv = _make(transition, patches.out_channels, outputs, 3, stride=1, padding=1, size=size // stride)
        return nn.Sequential(patches, conv)
    return nn.Sequential(_make(transition, inputs, outputs, kernel_size, stride, (kernel_size - 1) // 2, size=size))


def _neck(transition: LayerFactory, inputs: int, outputs: int, patch_size: int, size: int) -> nn.Sequential:
    """Make the layers that reduce maps of a size to one pixel."""
    left = size // patch_size
    patches = _make(transition, inputs, inputs, patch_size, patch_size, 0, size=size)
    features = _make(transition, inputs, outputs, left, left, 0, size=left)
    return nn.Sequential(patches, features)


def _make(
    factory: LayerFactory,
    inputs: int,
    outputs: int,
    kernel_size: int,
    stride: int | None = None,
    padding: int | None = None,
    **optional: Any,
) -> nn.Module:
    """Make a layer. It gets the optional arguments that it takes, unless the factory is a partial that sets them."""
    accepted = signature(factory).parameters
    already_set = getattr(factory, "keywords", {})
    given = {name: value for name, value in optional.items() if name in accepted and name not in already_set}
    if stride is not None:
        given |= {"stride": stride, "padding": padding}
    return factory(inputs, outputs, kernel_size=kernel_size, **given)


def _check_sizes(image_size: int, stem_stride: int, neck_patch_size: int, depth: int, dense_depth: int) -> None:
    check_integers(depth=depth, dense_depth=dense_depth, image_size=image_size)
    check_integers(stem_stride=stem_stride, neck_patch_size=neck_patch_size)
    if depth < 1 or dense_depth < 0:
        raise ValueError(f"depth must be at least 1 and dense_depth at least 0, got {depth} and {dense_depth}")
    if min(image_size, stem_stride, neck_patch_size) < 1 or image_size % (stem_stride * neck_patch_size):
        raise ValueError(
            f"image_size must be divisible by stem_stride * neck_patch_size = {stem_stride} * {neck_patch_size}, "
            f"got {image_size}"
        )
