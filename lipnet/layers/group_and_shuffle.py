"""Grouped convolutions with channel shuffles between them, over any layer, used like ``nn.Conv2d``."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lipnet.layers.base import LipschitzModule
from lipnet.layers.shuffle import ChannelShuffle


class GroupAndShuffle(LipschitzModule):
    """Grouped convolutions with channel shuffles between them, with a fraction of an ungrouped one's parameters.

    With groups (a, b): Y = F_b^{1x1}( shuffle_b( F_a^{kxk}( shuffle_a(X) ) ) ), where F is the layer and subscripts
    are numbers of groups. (a, None), written (a, -) in the paper, stops after F_a. The first convolution has the stride
    and changes the channels; each convolution has a bias. The bound is the product of both convolutions' bounds, since
    shuffles are isometries.

    If a does not divide the input channels, such as the 3 channels of an image, the first shuffle is left out and the
    first convolution has one group. Layers that pad their input channels to a multiple of a, such as `SOC`, keep their
    groups.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias: as in ``nn.Conv2d``; the layer refuses
            settings that it does not support.
        groups: (a, b) or (a, None).
        padding_mode: of the first convolution; None for the layer's default.
        layer: makes the convolutions: a class with ``nn.Conv2d``'s arguments, such as `SOC`, or a
            ``functools.partial`` of such a class.
        paired: keep neighbouring channels together, for `MaxMinPermuted`; not for `MaxMin`.
        options: further arguments for both convolutions, such as ``device`` and ``dtype``.

    Shape:
        (B, in_channels, H, W) to (B, out_channels, H / stride, W / stride); B may be missing.

    Raises:
        ValueError: for settings that the layer refuses, groups that are no pair, and channels that cannot be paired.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019), for SOC. Other layers in place of SOC
    are lipnet's own idea.

    Example:
        >>> from lipnet.layers import SOC
        >>> layer = GroupAndShuffle(16, 32, kernel_size=3, groups=(4, None), layer=partial(SOC, eval_tolerance=1e-6))
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
        padding_mode: str | None = None,
        *,
        layer: Callable[..., nn.Module],
        paired: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        first, second = _two_groups(groups)
        self.shuffle = _optional_shuffle(in_channels, first, paired)
        self.spatial = layer(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups=1 if in_channels % first and not _pads_channels(layer) else first,
            bias=bias,
            **({} if padding_mode is None else {"padding_mode": padding_mode}),
            **options,
        )
        self.second_shuffle: nn.Module = nn.Identity()
        self.pointwise: nn.Module = nn.Identity()
        if second is not None:
            self.second_shuffle = _optional_shuffle(out_channels, second, paired)
            self.pointwise = layer(out_channels, out_channels, kernel_size=1, groups=second, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = x if x.dim() != 3 else x.unsqueeze(0)
        maps = self.pointwise(self.second_shuffle(self.spatial(self.shuffle(maps))))
        return maps if x.dim() != 3 else maps.squeeze(0)

    def children_in_order(self) -> list[tuple[str, nn.Module]]:
        """Return the names and modules that ``forward`` runs one after another."""
        # Not named_children(), which lists a module once even if it runs twice.
        return [(name, getattr(self, name)) for name in ("shuffle", "spatial", "second_shuffle", "pointwise")]


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


def _pads_channels(layer: Callable[..., nn.Module]) -> bool:
    """Return whether a layer pads its input channels, so that its groups need not divide them."""
    while isinstance(layer, partial):
        layer = layer.func
    return getattr(layer, "pads_channels", False)
