"""The 'same' convolution (odd kernel, stride 1, dilation 1), its matrix, space-to-depth and missing channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.autocast import multiplies_bfloat16_fast
from lipnet.functional.transforms import is_ordinary

PADDING_MODES = ("zeros", "circular")
# Entries of a matrix of patches: 4 MB in float64.
_PATCH_ENTRIES = 500_000


def check_padding_mode(padding_mode: str) -> None:
    """Raise ValueError unless a padding mode is one of those for which the adjoint is again a 'same' convolution."""
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}")


def same_convolution(
    x: Tensor, weight: Tensor, groups: int = 1, padding_mode: str = "zeros", bias: Tensor | None = None
) -> Tensor:
    """Convolve without changing height and width.

    Args:
        x: feature maps (B, c, H, W).
        weight: filter (c_out, c/groups, kh, kw) with odd kh and kw.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``: for these, the adjoint is again a 'same' convolution.
        bias: added to each pixel, (c_out,).

    Returns:
        Feature maps (B, c_out, H, W).

    Raises:
        ValueError: for another padding mode or an even kernel, and if the kernel would wrap around circular maps more
            than once.
    """
    padded, padding = _padded(x, weight, padding_mode)
    if _faster_by_patches(padded, weight, bias):
        return _product_with_patches(F.pad(padded, (padding[1], padding[1], padding[0], padding[0])), weight, groups)
    return F.conv2d(padded, weight, bias, padding=padding, groups=groups)


def _faster_by_patches(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether `_product_with_patches` applies, and is faster: torch's own float64 takes a product per image."""
    if not is_ordinary(x):
        return False
    constant = not torch.is_grad_enabled() or not (x.requires_grad or weight.requires_grad)
    float64 = x.dtype == weight.dtype == torch.float64 and x.device.type == "cpu"
    return float64 and constant and bias is None and weight.shape[-2:] != (1, 1) and x.numel() > 0


def _product_with_patches(padded: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Convolve padded maps (B, c, H + kh - 1, W + kw - 1) as products of the filter with the patches of several images.

    The patches of all groups and as many images as fit into a processor's cache are the columns of a matrix.
    """
    rows, columns = weight.shape[-2:]
    size = (padded.shape[-2] - rows + 1, padded.shape[-1] - columns + 1)
    matrices = weight.reshape(groups, len(weight) // groups, -1)
    entries = matrices.shape[-1] * groups * size[0] * size[1]
    images = max(1, _PATCH_ENTRIES // entries)
    parts = []
    for part in torch.split(padded, images):
        patches = part.unfold(2, rows, 1).unfold(3, columns, 1).permute(1, 4, 5, 0, 2, 3)
        products = matrices @ patches.reshape(groups, matrices.shape[-1], -1)
        parts.append(products.view(len(weight), len(part), *size).transpose(0, 1))
    return torch.cat(parts)


def reads_channels_last(x: Tensor) -> bool:
    """Return whether maps are multiplied in ``torch.channels_last``: in bfloat16 by a processor that multiplies it.

    In another layout, each convolution converts its operands and its result.
    """
    reduced = x.dtype is torch.bfloat16 and x.device.type == "cpu" and multiplies_bfloat16_fast(x.device)
    return reduced and is_ordinary(x)


def same_convolution_weight_gradient(
    x: Tensor, gradient: Tensor, weight: Tensor, groups: int = 1, padding_mode: str = "zeros"
) -> Tensor:
    """Return the gradient of ``weight`` for the gradient of ``same_convolution(x, weight, ...)``.

    Args:
        x: feature maps (B, c, H, W) that were convolved.
        gradient: of the result, (B, c, H, W).
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


def jacobian_matrices(weight: Tensor, size: tuple[int, int], groups: int = 1, padding_mode: str = "zeros") -> Tensor:
    """Return the matrix J of each group's 'same' convolution on feature maps of one size.

    Args:
        weight: filter (c, c/groups, kh, kw) with odd kh and kw.
        size: H and W of the maps.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.

    Returns:
        (groups, n, n) with n = c/groups H W, for maps of a group flattened in the order (channel, row, column).

    Raises:
        ValueError: for another padding mode or an even kernel.
    """
    pixels = size[0] * size[1]
    if pixels == 1 and weight.shape[-2:] == (1, 1):
        return weight.view(groups, weight.shape[1], weight.shape[1])
    selection = _selection(weight, size, padding_mode)
    entries = weight.flatten(2) @ selection  # (c, c/g, pixels of the result * pixels of the input)
    grouped = entries.view(groups, -1, weight.shape[1], pixels, pixels)
    return grouped.transpose(2, 3).reshape(groups, weight.shape[1] * pixels, -1)


def _selection(weight: Tensor, size: tuple[int, int], padding_mode: str) -> Tensor:
    """Return (kh kw, pixels p * pixels q): 1 where tap (a, b) carries pixel q to pixel p, else 0."""
    taps = weight.shape[-2] * weight.shape[-1]
    pixels = size[0] * size[1]
    kernels = torch.eye(taps, dtype=weight.dtype, device=weight.device).view(taps, 1, *weight.shape[-2:])
    points = torch.eye(pixels, dtype=weight.dtype, device=weight.device).view(pixels, 1, *size)
    padded, padding = _padded(points, weight, padding_mode)
    return F.conv2d(padded, kernels, padding=padding).flatten(2).permute(1, 2, 0).reshape(taps, -1)


def _padded(x: Tensor, weight: Tensor, padding_mode: str) -> tuple[Tensor, tuple[int, int]]:
    """Return the maps, already padded if the padding is circular, and the zero padding that ``F.conv2d`` must add."""
    if weight.shape[-2] % 2 == 0 or weight.shape[-1] % 2 == 0:
        # Circular padding would repeat border pixels, which enlarges the norm.
        raise ValueError(f"weight must have odd kh and kw, got {tuple(weight.shape)}")
    rows, columns = weight.shape[-2] // 2, weight.shape[-1] // 2
    if padding_mode == "circular":
        return pad_circularly(x, rows, columns), (0, 0)
    check_padding_mode(padding_mode)
    return x, (rows, columns)


def pad_circularly(x: Tensor, rows: int, columns: int) -> Tensor:
    """Pad maps (..., H, W) circularly, as ``F.pad`` does, but with two copies instead of nine.

    Args:
        x: the maps.
        rows, columns: number of rows and columns to add on each side.

    Raises:
        ValueError: for maps that are smaller than the padding.
    """
    height, width = x.shape[-2:]
    if rows > height or columns > width:
        raise ValueError(
            f"maps must have at least {rows} x {columns} pixels for this circular padding, got {height} x {width}"
        )
    if columns:
        x = torch.cat((x[..., width - columns :], x, x[..., :columns]), dim=-1)
    return torch.cat((x[..., height - rows :, :], x, x[..., :rows, :]), dim=-2) if rows else x


def space_to_depth(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Move blocks of pixels into channels: ``pixel_unshuffle`` with a factor per direction, also for empty batches.

    Args:
        x: feature maps (B, c, H, W), H and W divisible by the strides.
        stride: (s, t), for rows and columns.

    Returns:
        Feature maps (B, c s t, H / s, W / t).

    Example:
        >>> space_to_depth(torch.arange(4.0).view(1, 1, 1, 4), (1, 2)).flatten(2)
        tensor([[[0., 2.],
                 [1., 3.]]])
    """
    if stride == (1, 1):
        return x
    height, width = x.shape[2] // stride[0], x.shape[3] // stride[1]
    blocks = x.reshape(*x.shape[:2], height, stride[0], width, stride[1])
    return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def depth_to_space(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Invert `space_to_depth`: (B, c s t, H, W) to (B, c, H s, W t)."""
    if stride == (1, 1):
        return x
    channels = x.shape[1] // (stride[0] * stride[1])
    blocks = x.reshape(x.shape[0], channels, *stride, *x.shape[2:])
    return blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def with_channels(maps: Tensor, channels: int) -> Tensor:
    """Cut maps (B, c, H, W) to their first ``channels`` channels, or append channels of zeros."""
    missing = channels - maps.shape[1]
    if missing == 0:
        return maps
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing > 0 else maps[:, :channels]
