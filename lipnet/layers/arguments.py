"""Checks of the arguments that convolution layers share with those of ``torch.nn``."""

from collections.abc import Sequence

from lipnet.functional import PADDING_MODES


def sizes(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """An int, or a sequence with a number for each dimension, as a tuple; ValueError for anything else."""
    if isinstance(value, int):
        return (value,) * dimensions
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != dimensions:
        several = "a sequence of one" if dimensions == 1 else f"a sequence of {dimensions}"
        raise ValueError(f"an int or {several} is needed, got {value!r}")
    return tuple(value)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """An int, or a sequence of two, as a pair."""
    first, second = sizes(value, 2)
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
    *,
    dimensions: int = 2,
    formula: str = "max(in_channels * stride^2, out_channels)",
) -> None:
    """Raise ValueError, with the values received, for a setting under which exp(J) would not be orthogonal.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as the layer received
            them.
        channels: of the skew filter.
        dimensions: of the maps, 1 or 2: how many numbers kernel_size, stride, padding and dilation have.
        formula: where ``channels`` come from, for the message.
    """
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"channels must be at least 1, got {in_channels} in, {out_channels} out")
    kernel = sizes(kernel_size, dimensions)
    if any(k < 1 or k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel_size must be odd, got {kernel_size}: an even kernel has no skew-symmetric form")
    if min(sizes(stride, dimensions)) < 1:
        raise ValueError(f"stride must be positive, got {stride}")
    same = tuple(k // 2 for k in kernel)
    if padding != "same" and (isinstance(padding, str) or sizes(padding, dimensions) != same):
        value = same if dimensions > 1 else same[0]
        raise ValueError(f"padding must be 'same', that is {value} for kernel_size {kernel_size}, got {padding!r}")
    if any(step != 1 for step in sizes(dilation, dimensions)):
        raise ValueError(f"dilation must be 1, got {dilation}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}: others break the skew symmetry"
        )
    if groups < 1 or channels % groups:
        raise ValueError(
            f"the {channels} channels of the skew filter, {formula}, must be divisible by groups, "
            f"got {groups} groups with {in_channels} channels in, {out_channels} out, stride {stride}"
        )


def check_output_padding(output_padding: int | Sequence[int], dimensions: int = 2) -> None:
    """Raise ValueError unless the output padding of a transposed convolution is 0."""
    if any(sizes(output_padding, dimensions)):
        raise ValueError(
            f"output_padding must be 0, as the output is exactly stride times as large as the input, "
            f"got {output_padding}"
        )
