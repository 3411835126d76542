"""Checks of the arguments that convolution layers share with ``nn.Conv2d``."""

from collections.abc import Sequence

from lipnet.functional import PADDING_MODES


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """An int, or a sequence of two, as a pair."""
    if isinstance(value, int):
        return value, value
    first, second = value
    return first, second


def check_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    padding_mode: str,
    channels: int,
) -> None:
    """Raise ValueError, with the values received, for a setting under which exp(J) would not be orthogonal."""
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"channels must be at least 1, received {in_channels} in, {out_channels} out")
    kernel = pair(kernel_size)
    if any(k < 1 or k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel_size must be odd, received {kernel_size}: an even kernel has no skew-symmetric form")
    if min(pair(stride)) < 1:
        raise ValueError(f"stride must be positive, received {stride}")
    same = (kernel[0] // 2, kernel[1] // 2)
    if padding != "same" and (isinstance(padding, str) or pair(padding) != same):
        raise ValueError(f"padding must be 'same', that is {same} for kernel_size {kernel_size}, received {padding!r}")
    if pair(dilation) != (1, 1):
        raise ValueError(f"dilation must be 1, received {dilation}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {PADDING_MODES}, received {padding_mode!r}: others break the skew symmetry"
        )
    if groups < 1 or channels % groups:
        raise ValueError(
            f"the {channels} channels of the skew filter, max(in_channels * stride^2, out_channels), must be divisible "
            f"by groups, received {groups} groups with {in_channels} channels in, {out_channels} out, stride {stride}"
        )
