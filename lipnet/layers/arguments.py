"""Options of the skew-orthogonal layers, and checks of the arguments that they share with ``torch.nn``."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from lipnet.functional.autocast import autocast_dtype
from lipnet.functional.convolution import check_padding_mode


class SOCOptions(TypedDict, total=False):
    """Keyword options of every skew-orthogonal layer. docs/notation.md defines J.

    Set them at construction. Only engine, eval_terms, eval_tolerance and recompute may change later.

    Attributes:
        engine: how exp(J) is computed: ``"series"``, ``"spectral"``, ``"dense"``, or ``"auto"`` (default), see
            `lipnet.layers.engines.choose`.
        series: polynomial in place of exp: ``"chebyshev"`` (default), or ``"taylor"`` as published.
        scaling: ``"jacobian"`` (default) brings ||J|| to 1.4; ``"reshaped"``, as published, brings the smaller norm of
            two reshaped filters to 0.7 * 3 / sqrt(kh kw) (1 for a 1 x 1 kernel), so that ||J|| <= 2.1.
        train_terms, eval_terms: degree of the polynomial in training and evaluation, at most 64; None (default) takes
            the lowest one within the tolerance. As published: 5 and 12.
        train_tolerance, eval_tolerance: largest distance of the polynomial from exp for the expected norms of J; 0.05
            and 1e-4 by default.
        recompute: only save the input of the series for backward, and compute the rest again. False by default.
        device, dtype: of the parameters.
    """

    engine: str
    series: str
    scaling: str
    train_terms: int | None
    eval_terms: int | None
    train_tolerance: float
    eval_tolerance: float
    recompute: bool
    device: torch.device | str | None
    dtype: torch.dtype | None


def sizes(value: int | Sequence[int], dimensions: int, name: str) -> tuple[int, ...]:
    """Return an int, or a sequence with a number for each dimension, as a tuple; raise ValueError for anything else.

    Args:
        value: as the user gave it.
        dimensions: number of entries of the result.
        name: of the argument, for the error.
    """
    if isinstance(value, int):
        return (value,) * dimensions
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != dimensions:
        several = "a sequence of one" if dimensions == 1 else f"a sequence of {dimensions}"
        raise ValueError(f"{name} must be an int or {several}, got {value!r}")
    return tuple(value)


def pair(value: int | Sequence[int], dimensions: int, name: str) -> tuple[int, int]:
    """Return `sizes` as rows and columns; a layer with less than two dimensions has size 1 in the missing ones."""
    first, second = (1,) * (2 - dimensions) + sizes(value, dimensions, name)
    return first, second


def check_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    padding_mode: str,
    *,
    dimensions: int = 2,
    dilated: bool = False,
) -> None:
    """Raise ValueError for a setting that a 'same' convolution with a guarantee does not support.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode: as the user gave them.
        dimensions: spatial dimensions; sequences of sizes must have this length.
        dilated: whether the layer supports dilations other than 1.
    """
    if in_channels < 1 or out_channels < 1:
        raise ValueError(f"channels must be at least 1, got {in_channels} in, {out_channels} out")
    kernel, spacing = sizes(kernel_size, dimensions, "kernel_size"), sizes(dilation, dimensions, "dilation")
    check_odd(kernel_size, dimensions)
    if any(step < 1 for step in sizes(stride, dimensions, "stride")):
        raise ValueError(f"stride must be positive, got {stride}")
    if any(step < 1 for step in spacing) or (not dilated and any(step > 1 for step in spacing)):
        raise ValueError(f"dilation must be {'positive' if dilated else '1'}, got {dilation}")
    same = tuple(step * (k // 2) for k, step in zip(kernel, spacing, strict=True))
    if padding != "same" and (isinstance(padding, str) or sizes(padding, dimensions, "padding") != same):
        value = same if dimensions > 1 else same[0]
        raise ValueError(f"padding must be 'same', that is {value} for kernel_size {kernel_size}, got {padding!r}")
    check_padding_mode(padding_mode)


def check_odd(kernel_size: int | Sequence[int], dimensions: int = 2) -> None:
    """Raise ValueError unless a kernel has an odd number of taps in each dimension."""
    if any(taps < 1 or taps % 2 == 0 for taps in sizes(kernel_size, dimensions, "kernel_size")):
        raise ValueError(f"kernel_size must be odd, got {kernel_size}: an even kernel has no middle")


def check_groups(groups: int, channels: Mapping[str, int]) -> None:
    """Raise ValueError unless ``groups`` divides all of these numbers of channels, whose keys are their formulas."""
    for formula, count in channels.items():
        if count < 1:
            raise ValueError(f"{formula} must be positive, got {count}")
    if groups < 1 or any(count % groups for count in channels.values()):
        needed = " and ".join(f"{formula} = {count}" for formula, count in channels.items())
        raise ValueError(f"groups must divide {needed}, got {groups}")


def check_output_padding(output_padding: int | Sequence[int], dimensions: int = 2) -> None:
    """Raise ValueError unless the output padding of a transposed convolution is 0."""
    if any(sizes(output_padding, dimensions, "output_padding")):
        raise ValueError(
            f"output_padding must be 0, as the output is exactly stride times as large as the input, "
            f"got {output_padding}"
        )


def check_input(
    name: str,
    x: Tensor,
    weight: Tensor,
    channels: int,
    dimensions: int,
    stride: tuple[int, int],
    reach: tuple[int, int],
) -> None:
    """Raise ValueError for an input that a layer cannot take.

    Args:
        name: name of the layer's class.
        x: the input. The batch dimension may be missing, unless there are no spatial dimensions.
        weight: weight of the layer. Outside of autocast, x must have its dtype.
        channels, dimensions: channels and spatial dimensions that x must have.
        stride: steps for rows and columns that must divide height and width.
        reach: rows and columns by which circular padding extends the maps after the stride; it may wrap around once.
    """
    if x.dtype != weight.dtype and autocast_dtype(x.device) is None:
        raise ValueError(f"{name} needs an input of its weight's dtype, {weight.dtype}, got {x.dtype}")
    axes = {0: "", 1: ", L", 2: ", H, W"}[dimensions]
    least = max(2, dimensions + 1)
    if x.dim() not in (least, dimensions + 2) or x.shape[x.dim() - dimensions - 1] != channels:
        needed = f"(B, {channels}{axes})" + (f" or ({channels}{axes})" if dimensions else "")
        raise ValueError(f"{name} needs an input of shape {needed}, got {tuple(x.shape)}")
    size, steps = x.shape[x.dim() - dimensions :], stride[2 - dimensions :]
    lengths, got = "a length" if dimensions == 1 else "height and width", " x ".join(map(str, size))
    if any(length % step for length, step in zip(size, steps, strict=True)):
        needed = " x ".join(map(str, steps)) if len(set(steps)) > 1 else str(steps[0])
        raise ValueError(f"{name} with stride {needed} needs {lengths} divisible by it, got {got}")
    least_size = [step * pixels for step, pixels in zip(steps, reach[2 - dimensions :], strict=True)]
    if any(length < least_length for length, least_length in zip(size, least_size, strict=True)):
        needed = " x ".join(map(str, least_size))
        raise ValueError(f"{name} with circular padding needs {lengths} of at least {needed} for its kernel, got {got}")


def for_channels(constants: Tensor, maps: Tensor) -> Tensor:
    """Return a constant for each channel, (C,), in the dtype of maps (B, C, ...) and in a shape to add to them.

    Raises:
        ValueError: for another number of constants. Torch would repeat a single channel, which enlarges its norm.
    """
    if constants.shape != maps.shape[1:2]:
        raise ValueError(
            f"a constant is needed for each of {maps.shape[1]} channels, got a tensor of shape {tuple(constants.shape)}"
        )
    return constants.to(maps.dtype).view(-1, *[1] * (maps.dim() - 2))


def check_weight(name: str, weight: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a layer's weight or bias has floating-point entries and the shape of the settings.

    A tensor of another shape may repeat feature maps or pixels, which enlarges their norm. None is accepted: the layer
    has no such weight.
    """
    if weight is None:
        return
    if weight.shape != shape:
        raise ValueError(f"{name} must have shape {shape} for the layer's settings, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, got {weight.dtype}")
