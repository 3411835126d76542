"""The group-and-shuffle skew-orthogonal convolution (GS-SOC), used like ``nn.Conv2d``."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from lipnet.layers.arguments import SOCOptions
from lipnet.layers.base import LipschitzModule
from lipnet.layers.shuffle import ChannelShuffle
from lipnet.layers.soc import SOC


class GSSOC(LipschitzModule):
    """Grouped SOCs with channel shuffles between them: an orthogonal convolution with a fraction of SOC's parameters.

    With groups (a, b): Y = SOC_b^{1x1}( shuffle_b( SOC_a^{kxk}( shuffle_a(X) ) ) ), where subscripts are numbers of
    groups. With (a, None), written (a, -) in the paper: the first pair alone. The first convolution has the stride and
    changes the channels; each convolution has a bias. A shuffle is left out where the channels do not divide by its
    groups, as for the 3 channels of an image.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as in `SOC`.
        groups: (a, b) or (a, None).
        paired: keep neighbouring channels together, for `MaxMinPermuted`; not for `MaxMin`.
        options: for both convolutions, see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride); B may be missing.

    Raises:
        ValueError: for settings that `SOC` refuses, groups that are not two, and channels that cannot be paired.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> layer = GSSOC(16, 32, kernel_size=3, groups=(4, None))
        >>> sum(parameter.numel() for parameter in layer.parameters())
        2336
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        dilation: int | tuple[int, int] = 1,
        groups: Sequence[int | None] = (4, None),
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        paired: bool = True,
        **options: Unpack[SOCOptions],
    ) -> None:
        super().__init__()
        first, second = _two_groups(groups)
        self.shuffle = _optional_shuffle(in_channels, first, paired)
        self.spatial = SOC(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=first,
            bias=bias,
            padding_mode=padding_mode,
            **options,
        )
        self.second_shuffle: nn.Module = nn.Identity()
        self.pointwise: nn.Module = nn.Identity()
        if second is not None:
            self.second_shuffle = _optional_shuffle(out_channels, second, paired)
            self.pointwise = SOC(out_channels, out_channels, kernel_size=1, groups=second, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = x if x.dim() != 3 else x.unsqueeze(0)
        maps = self.pointwise(self.second_shuffle(self.spatial(self.shuffle(maps))))
        return maps if x.dim() != 3 else maps.squeeze(0)

    def children_in_order(self) -> list[tuple[str, nn.Module]]:
        """Return the names and modules that ``forward`` runs one after another."""
        return list(self.named_children())


def _two_groups(groups: Sequence[int | None]) -> tuple[int, int | None]:
    valid = not isinstance(groups, (int, str)) and len(groups) == 2 and groups[0] is not None
    if not valid or any(count is not None and count < 1 for count in groups):
        raise ValueError(f"groups must be (a, b) or (a, None) with a, b >= 1, got {groups!r}")
    return groups[0], groups[1]  # type: ignore[return-value]


def _optional_shuffle(channels: int, groups: int, paired: bool) -> nn.Module:
    if groups == 1 or channels % groups:
        return nn.Identity()
    if paired and channels % (2 * groups):
        raise ValueError(
            f"a paired shuffle with {groups} groups needs channels divisible by {2 * groups}, got {channels}; "
            "use paired=False or another number of channels"
        )
    return ChannelShuffle(groups, paired)
