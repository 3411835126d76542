"""The 'same' convolution with odd kernel, stride 1 and dilation 1 that everything here is made of."""

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_MODES = ("zeros", "circular")


def same_convolution(x: Tensor, weight: Tensor, groups: int = 1, padding_mode: str = "zeros") -> Tensor:
    """Convolve so that height and width stay as they are.

    Args:
        x: maps (B, c, H, W).
        weight: filter (c, c/groups, kh, kw) with odd kh and kw.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``: the two for which the adjoint is again such a convolution.

    Returns:
        Maps (B, c, H, W).

    Raises:
        ValueError: for another padding mode.
    """
    padded, padding = _padded(x, weight, padding_mode)
    return F.conv2d(padded, weight, padding=padding, groups=groups)


def same_convolution_weight_gradient(
    x: Tensor, gradient: Tensor, weight: Tensor, groups: int = 1, padding_mode: str = "zeros"
) -> Tensor:
    """The gradient that ``weight`` receives if ``same_convolution(x, weight, ...)`` receives ``gradient``.

    Args:
        x: maps (B, c, H, W) that were convolved.
        gradient: maps (B, c, H, W).
        weight: the filter; only its shape matters.
        groups, padding_mode: as in `same_convolution`.

    Returns:
        A tensor of the weight's shape.
    """
    padded, padding = _padded(x, weight, padding_mode)
    only_weight = (False, True, False)
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, padded, weight, None, (1, 1), padding, (1, 1), False, (0, 0), groups, only_weight
    )
    return gradients[1]


def _padded(x: Tensor, weight: Tensor, padding_mode: str) -> tuple[Tensor, tuple[int, int]]:
    """The maps, wrapped if the padding is circular, and the zero padding that is left to the convolution."""
    rows, columns = weight.shape[-2] // 2, weight.shape[-1] // 2
    if padding_mode == "zeros":
        return x, (rows, columns)
    if padding_mode == "circular":
        return F.pad(x, (columns, columns, rows, rows), mode="circular"), (0, 0)
    raise ValueError(f"padding_mode must be one of {PADDING_MODES}, received {padding_mode!r}")


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """``pixel_unshuffle``, which leaves the shape of an empty batch as it is.

    Args:
        x: maps (B, c, H, W), H and W divisible by the stride.
        stride: s.

    Returns:
        Maps (B, c s^2, H / s, W / s).
    """
    height, width = x.shape[2] // stride, x.shape[3] // stride
    blocks = x.reshape(*x.shape[:2], height, stride, width, stride)
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
