"""LipConvNet, a provably 1-Lipschitz convolutional network."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnet.layers import SOC, MaxMin, PatchEmbedding, SOCLinear
from lipnet.models.parts import (
    LayerFactory,
    LipschitzSequential,
    average_with_mirror,
    check_integers,
    make_activation,
    make_normalize,
)

MAXIMUM_STAGES = 16
_LARGE_HEAD = 100_000_000


class LipConvNet(LipschitzSequential):
    """LipConvNet-N: stages of orthogonal convolutions with norm-preserving activations, then a linear head.

    For c = ``initial_channels``, n = N / ``stages`` and images of S x S:

    | child | layers | output |
    | --- | --- | --- |
    | ``normalize`` | (x - mean) / std, from pixels in [0, 1] | S x S |
    | ``patches`` | optional: p x p pixels as channels, rotated; S becomes S / p | S/p x S/p |
    | ``stage1`` | n - 1 convolutions 3 x 3 of c channels, one 3 x 3 with stride 2 to 2 c | S/2 x S/2 |
    | ``stage2``, ... | the same with twice the channels | half the size |
    | the last stage | the same, but the last convolution is 1 x 1 | S / 2^stages |
    | ``pooling`` | optional | |
    | ``flatten``, ``head`` | linear layer to the logits | ``num_classes`` |

    Every convolution is followed by an activation. The published network has 5 stages and 32 initial channels for
    images of 32 x 32.

    Args:
        num_classes: number of logits.
        depth: N, a multiple of ``stages``.
        initial_channels: channels of the first stage.
        in_channels: channels of the images.
        image_size: height and width of the images, divisible by 2 ** stages.
        stages: number of stages, at most 16; 3 fit images of 8 x 8.
        patch_rotation: p, the size of patches whose principal components are the input channels of the first
            convolution, see `lipnet.layers.PatchEmbedding`; None for the pixels themselves.
        conv: makes a convolution: ``conv(in_channels, out_channels, kernel_size=k, stride=s)``.
        activation: makes an activation: ``activation(channels=c)`` if it takes an argument ``channels``, else
            ``activation()``.
        pooling: ``pooling()`` makes a module without parameters that reduces the last feature maps before the head,
            such as `lipnet.layers.NormPool2d`; None for no pooling.
        head: ``head(in_features, num_classes)`` makes the last layer.
        mirror: in evaluation, the head sees the average of the features of an image and of its mirror image, see
            `lipnet.layers.MirrorAverage`.
        mean: mean of the images, one number per channel.
        std: standard deviation of the images, one number.

    Shape:
        (B, in_channels, image_size, image_size) to (B, num_classes).

    Raises:
        ValueError: the stages do not fit the depth or the image size, or an input has another shape.

    Warns:
        UserWarning: the head has more than 100 million parameters, such as on large images without pooling.

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
        patch_rotation: int | None = None,
        conv: LayerFactory = SOC,
        activation: LayerFactory = MaxMin,
        pooling: LayerFactory | None = None,
        head: LayerFactory = SOCLinear,
        mirror: bool = False,
        mean: Sequence[float] | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        size = _size_in_patches(image_size, patch_rotation)
        _check_shape(depth, stages, size)
        self.add_module("normalize", make_normalize(mean, std, in_channels, image_size))
        channels, width = in_channels, initial_channels
        if patch_rotation is not None:
            self.add_module("patches", PatchEmbedding(in_channels, patch_rotation, rotation=True))
            channels *= patch_rotation**2
        for stage in range(1, stages + 1):
            kernel_size = 1 if stage == stages else 3
            self.add_module(f"stage{stage}", _stage(channels, width, depth // stages, kernel_size, conv, activation))
            channels, width = 2 * width, 2 * width
        maps = torch.empty(1, channels, size // 2**stages, size // 2**stages, device="meta")
        if pooling is not None:
            self.add_module("pooling", pooling())
            maps = self[-1](maps)
        self.add_module("flatten", nn.Flatten())
        _warn_of_large_head(head, maps, num_classes)
        self.add_module("head", head(maps.numel(), num_classes))
        if mirror:
            average_with_mirror(self)


def _stage(
    in_channels: int, width: int, layers: int, last_kernel_size: int, conv: LayerFactory, activation: LayerFactory
) -> nn.Sequential:
    stage = nn.Sequential()
    for _ in range(layers - 1):
        stage.extend([conv(in_channels, width, kernel_size=3, stride=1), make_activation(activation, width)])
        in_channels = width
    last = conv(in_channels, 2 * width, kernel_size=last_kernel_size, stride=2)
    return stage.extend([last, make_activation(activation, 2 * width)])


def _size_in_patches(image_size: int, patch_rotation: int | None) -> int:
    """Return the height and width of an image, counted in patches."""
    if patch_rotation is None:
        return image_size
    if patch_rotation < 1 or image_size % patch_rotation:
        raise ValueError(f"patch_rotation must divide image_size = {image_size}, got {patch_rotation}")
    return image_size // patch_rotation


def _check_shape(depth: int, stages: int, image_size: int) -> None:
    check_integers(depth=depth, stages=stages, image_size=image_size)
    if stages < 1 or depth < stages or depth % stages:
        raise ValueError(f"depth must be a multiple of the {stages} stages, got depth {depth}")
    if stages > MAXIMUM_STAGES:
        raise ValueError(f"stages must be at most {MAXIMUM_STAGES}, got {stages}")
    if image_size < 1 or image_size % 2**stages:
        raise ValueError(
            f"image_size must be divisible by 2 ** stages = {2**stages} (every stage halves it), got {image_size}: "
            f"{_alternatives(stages, image_size)}"
        )


def _alternatives(stages: int, image_size: int) -> str:
    """Return a hint: sizes near an image size that fit the stages, and numbers of stages that fit the image size."""
    factor = 2**stages
    sizes = [size for size in (image_size // factor * factor, -(-image_size // factor) * factor) if size > 0]
    fitting = [str(count) for count in range(1, stages) if image_size > 0 and image_size % 2**count == 0]
    others = f"; stages={' or '.join(fitting)} fit {image_size}" if fitting else ""
    return f"images of {' or '.join(map(str, dict.fromkeys(sizes)))} fit{others}"


def _warn_of_large_head(head: LayerFactory, maps: Tensor, num_classes: int) -> None:
    # An orthogonal head has as many parameters as the square of its width. Counting them allocates nothing.
    if maps.numel() ** 2 <= _LARGE_HEAD:
        return
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in head(maps.numel(), num_classes).parameters())
    if count > _LARGE_HEAD:
        size = maps.shape[-1]
        warnings.warn(
            f"the head has {count:,} parameters on {maps.numel():,} features of {size} x {size} maps; reduce them with "
            f"pooling (model/pooling=norm model.pooling.kernel_size={size}), or take head=NormalizedLinear (head=lln)",
            stacklevel=3,
        )
