"""LipNeXt: a 1-Lipschitz network of rotations, shifts and absolute values, without spatial convolutions."""

from collections.abc import Sequence

from torch import nn

from lipnet.layers import (
    BetaAbs,
    NormalizedLinear,
    NormPool2d,
    OrthogonalMixing,
    PatchEmbedding,
    PositionCode,
    SpatialMixing,
)
from lipnet.models.parts import (
    LayerFactory,
    LipschitzSequential,
    average_with_mirror,
    check_integers,
    make_normalize,
)


class LipNeXtBlock(LipschitzSequential):
    r"""Block of LipNeXt: :math:`y = \mathrm{act}(M R^T S(R (x + p)) + b)`.

    R and M are orthogonal C x C matrices on the channels, p is a learned position code, S shifts a share of the
    channels by a pixel (`SpatialShift`), and act is `BetaAbs`. With circular padding, all parts but act are isometries;
    act is 1-Lipschitz and keeps norms.

    Args:
        channels: C.
        size: height and width of the maps.
        groups, share, beta, padding_mode, parametrization: as in `LipNeXt`.

    Shape:
        (B, C, size, size) to the same shape.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        groups: int = 1,
        share: float = 1 / 16,
        beta: float = 0.5,
        padding_mode: str = "circular",
        parametrization: str = "cayley",
    ) -> None:
        super().__init__()
        self.add_module("position", PositionCode(channels, size))
        spatial = SpatialMixing(
            channels, groups, share=share, padding_mode=padding_mode, parametrization=parametrization
        )
        self.add_module("spatial", spatial)
        self.add_module("mixing", OrthogonalMixing(channels, groups, parametrization=parametrization))
        self.add_module("activation", BetaAbs(beta))


class LipNeXt(LipschitzSequential):
    """LipNeXt: patches as channels, blocks of constant width, L2 pooling, and a linear head.

    For L = ``depth``, C = ``channels`` and images of S x S:

    | child | layers | output |
    | --- | --- | --- |
    | ``normalize`` | (x - mean) / std, from pixels in [0, 1] | S x S |
    | ``stem`` | patches of p x p pixels as channels, then channels of zeros | C, S/p x S/p |
    | ``block1``, ..., ``blockL`` | `LipNeXtBlock` | the same |
    | ``pooling`` | L2 norm of each channel over all pixels | C |
    | ``flatten``, ``head`` | linear layer to the logits | ``num_classes`` |

    A block has 2 C^2 parameters in its matrices; with ``groups=g``, as group-and-shuffle products, 4 C^2 / g. Position
    codes and biases add C (2 S / p + 1). Nearly all time is spent in plain products, without spatial convolutions.

    Args:
        num_classes: number of logits.
        depth: L, the number of blocks.
        channels: C, at least in_channels p^2.
        in_channels: channels of the images.
        image_size: height and width of the images, S, divisible by p.
        patch_size: p.
        groups: 1 for dense matrices; with g, both matrices of a block are group-and-shuffle products, see
            `OrthogonalMixing`.
        share: share of the channels that a block shifts in each of four directions.
        beta: share of the channels whose absolute value the activation takes.
        padding_mode: of the shifts, ``"circular"`` or ``"zeros"``.
        parametrization: ``"cayley"``, or ``"manifold"`` for Riemannian steps on the matrices themselves.
        patch_rotation: rotate patches to their principal components, see `PatchEmbedding`.
        head: ``head(in_features, num_classes)`` makes the last layer.
        mirror: in evaluation, the head sees the average of the features of an image and of its mirror image.
        mean: mean of the images, one number per channel.
        std: standard deviation of the images, one number.

    Shape:
        (B, in_channels, image_size, image_size) to (B, num_classes).

    Raises:
        ValueError: for sizes that do not fit, and for inputs of another shape.

    Source: LipNeXt (arXiv 2601.18513). The position code is separable in rows and columns, which keeps it small.

    Example:
        >>> import torch
        >>> model = LipNeXt(10, depth=2, channels=16, image_size=8, patch_size=2, groups=4, std=0.25).double().eval()
        >>> model.block1.lipschitz_bound() < 1 + 1e-9, model(torch.zeros(1, 3, 8, 8).double()).shape
        (True, torch.Size([1, 10]))
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        depth: int = 32,
        channels: int = 1024,
        in_channels: int = 3,
        image_size: int = 32,
        patch_size: int = 2,
        groups: int = 1,
        share: float = 1 / 16,
        beta: float = 0.5,
        padding_mode: str = "circular",
        parametrization: str = "cayley",
        patch_rotation: bool = False,
        head: LayerFactory = NormalizedLinear,
        mirror: bool = False,
        mean: Sequence[float] | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_integers(channels=channels, groups=groups)
        _check_sizes(image_size, patch_size, depth)
        size = image_size // patch_size
        self.add_module("normalize", make_normalize(mean, std, in_channels, image_size))
        self.add_module("stem", PatchEmbedding(in_channels, patch_size, channels, rotation=patch_rotation))
        for number in range(1, depth + 1):
            block = LipNeXtBlock(
                channels,
                size,
                groups=groups,
                share=share,
                beta=beta,
                padding_mode=padding_mode,
                parametrization=parametrization,
            )
            self.add_module(f"block{number}", block)
        self.add_module("pooling", NormPool2d(size))
        self.add_module("flatten", nn.Flatten())
        self.add_module("head", head(channels, num_classes))
        if mirror:
            average_with_mirror(self)


def _check_sizes(image_size: int, patch_size: int, depth: int) -> None:
    check_integers(depth=depth, image_size=image_size, patch_size=patch_size)
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ValueError(f"image_size must be divisible by patch_size, got {image_size} and {patch_size}")
