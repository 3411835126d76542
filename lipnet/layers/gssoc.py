"""The group-and-shuffle skew-orthogonal convolution (GS-SOC), used like ``nn.Conv2d``."""

from collections.abc import Sequence
from typing import Unpack

from lipnet.layers.arguments import SOCOptions
from lipnet.layers.group_and_shuffle import GroupAndShuffle
from lipnet.layers.soc import SOC


class GSSOC(GroupAndShuffle):
    """Grouped SOCs with channel shuffles between them: an orthogonal convolution with a fraction of SOC's parameters.

    With groups (a, b): Y = SOC_b^{1x1}( shuffle_b( SOC_a^{kxk}( shuffle_a(X) ) ) ), where subscripts are numbers of
    groups. It is `GroupAndShuffle` with ``layer=SOC``; see there.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode: as in `SOC`.
        groups: (a, b) or (a, None).
        paired: keep neighbouring channels together, for `MaxMinPermuted`; not for `MaxMin`.
        options: for both convolutions, see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride); B may be missing.

    Raises:
        ValueError: for settings that `SOC` refuses, groups that are no pair, and channels that cannot be paired.

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
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        dilation: int | Sequence[int] = 1,
        groups: Sequence[int | None] = (4, None),
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        paired: bool = True,
        **options: Unpack[SOCOptions],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            layer=SOC,
            paired=paired,
            **options,
        )
