"""Fast implementations of a 'same' convolution that is applied several times in a row, and the choice between them."""

import torch
from torch import Tensor

from lipnet.functional.convolution import check_padding_mode, reads_channels_last
from lipnet.functional.forms.bilinear import has_bilinear_form, is_tiled
from lipnet.functional.forms.blocked import Blocked
from lipnet.functional.forms.channels_last import ChannelsLast
from lipnet.functional.forms.direct import Direct
from lipnet.functional.forms.products import Products, product_matrices
from lipnet.functional.transforms import is_ordinary

__all__ = ["Blocked", "ChannelsLast", "Direct", "Products", "convolution_form", "form_matrices"]

# Tiles of 4 x 4 pixels are faster than convolutions from this number of channels on ...
_MIN_CHANNELS_OF_TILES = 128
# ... and from this batch size times map width on: computing the matrices costs the same for every batch.
_MIN_BATCH_OF_TILES = 256


def convolution_form(
    x: Tensor, weight: Tensor, groups: int, padding_mode: str, matrices: Tensor | None = None
) -> Direct | Products:
    """Choose the fastest form of the convolution for feature maps like x.

    | feature maps | form |
    | --- | --- |
    | at most 2 x 2 pixels, or 4 x 4 and 8 x 8 with many channels | `Products`: a few products of channels |
    | float32 on the CPU, zero padding | `Blocked`: oneDNN's own layout, with one conversion for all convolutions |
    | bfloat16 on a processor that multiplies it | `ChannelsLast`: its layout, with one conversion |
    | everything else | `Direct`: ``F.conv2d`` |

    Args:
        x: feature maps (B, c, H, W).
        weight: filter (c, c/groups, kh, kw).
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.
        matrices: result of `form_matrices` for this weight and map size, to avoid computing it again.

    Raises:
        ValueError: for another padding mode.
    """
    check_padding_mode(padding_mode)
    size = (x.shape[-2], x.shape[-1])
    worth_it = matrices is not None or not is_tiled(size) or len(x) * x.shape[-1] >= _MIN_BATCH_OF_TILES
    if worth_it and x.numel() > 0 and _takes_products(size, weight, groups, padding_mode):
        return Products(x, weight, groups, padding_mode, matrices)
    if padding_mode == "zeros" and _has_blocked_layout(x):
        return Blocked(weight, groups, padding_mode)
    if reads_channels_last(x):
        return ChannelsLast(weight, groups, padding_mode)
    return Direct(weight, groups, padding_mode)


def form_matrices(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> Tensor | None:
    """Return matrices that `convolution_form` can reuse for feature maps of one size, or None."""
    takes_products = _takes_products(size, weight, groups, padding_mode)
    return product_matrices(weight, size, groups, padding_mode) if takes_products else None


def _takes_products(size: tuple[int, int], weight: Tensor, groups: int, padding_mode: str) -> bool:
    kernel_size = (weight.shape[-2], weight.shape[-1])
    if size == (1, 1):
        return True
    # A 1 x 1 kernel is one product for all pixels already.
    if kernel_size == (1, 1) or not has_bilinear_form(size, kernel_size, padding_mode):
        return False
    # Tiles round more, which half precision cannot afford. On accelerators, they have not been measured.
    return not is_tiled(size) or (
        groups == 1
        and weight.shape[1] >= _MIN_CHANNELS_OF_TILES
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
    )


def _has_blocked_layout(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.numel() > 0
        # Before the next two, which compilers cannot trace.
        and is_ordinary(x)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch._C._get_mkldnn_enabled()
    )
