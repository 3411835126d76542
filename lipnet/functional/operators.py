"""How a convolution that is applied many times in a row is best computed: in which layout, as what."""

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import PADDING_MODES, same_convolution, same_convolution_weight_gradient
from lipnet.functional.short_maps import bilinear_form, has_bilinear_form, is_tiled, transform

# From so many channels on, products of channels are faster than convolutions on maps of four and eight pixels a side.
_CHANNELS_WORTH_TILES = 128
# And from this product of the batch and the maps' width on: making the matrices takes its time whatever the batch.
_BATCH_WORTH_TILES = 256


class ConvolutionOperator(Protocol):
    """A 'same' convolution K, and the form in which maps are handed to it."""

    weight: Tensor
    kept: list[Tensor]  # what is worth keeping from the forward for the backward pass, to be given to another operator

    def enter(self, maps: Tensor) -> Tensor:
        """Maps (B, c, H, W) in the operator's own form, or in it already."""

    def leave(self, maps: Tensor) -> Tensor:
        """Maps in the operator's form as (B, c, H, W)."""

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        """(sign K + shift) maps, in memory of their own."""

    def apply_first(self, maps: Tensor, shift: float, channels: int) -> Tensor:
        """The first channels of (K + shift) maps, one group, as (B, channels, H, W)."""

    def apply_to_first(self, maps: Tensor, shift: float) -> Tensor:
        """(-K + shift) of maps (B, first channels, H, W) with zeros for the others, one group."""

    def collect(self, maps: Tensor, gradient: Tensor, sign: int) -> None:
        """Take into the filter's gradient that sign K maps receives the gradient."""

    def filter_gradient(self) -> Tensor:
        """The sum of what was collected."""


def operator_tensors(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> list[Tensor]:
    """What an operator for maps of one size makes of the filter before it is applied, if that is worth keeping."""
    if not _takes_products(size, weight, groups, padding_mode):
        return []
    taps = bilinear_form(size, (weight.shape[-2], weight.shape[-1]), padding_mode, like=weight).taps
    channels = weight.shape[1]
    if taps.numel() == 1:
        return [weight.view(groups, channels, channels)]
    return [(taps @ weight.reshape(-1, taps.shape[1]).mT).view(-1, channels, channels)]


def convolution_operator(
    x: Tensor, weight: Tensor, groups: int, padding_mode: str, kept: Sequence[Tensor] = ()
) -> ConvolutionOperator:
    """The cheapest form of the convolution for maps like x.

    On maps of at most 2 x 2 pixels, and of tiles of 4 x 4 if the channels are many: a few products of channels. On
    the CPU in float32: the blocked layout of its library, into and out of which every convolution would otherwise
    convert. Else: the convolution as it is.

    Raises:
        ValueError: for another padding mode than ``"zeros"`` and ``"circular"``.
    """
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}")
    size = (x.shape[-2], x.shape[-1])
    if _takes_products(size, weight, groups, padding_mode) and x.numel() > 0 and (kept or _is_worth_its_matrices(x)):
        return _Products(x, weight, groups, padding_mode, kept)
    if padding_mode == "zeros" and _has_blocked_layout(x):
        return _Blocked(weight, groups)
    return _Direct(weight, groups, padding_mode)


def _takes_products(size: tuple[int, int], weight: Tensor, groups: int, padding_mode: str) -> bool:
    """Whether a few products of channels do, and are cheaper; a 1 x 1 kernel needs one for all pixels anyway."""
    kernel_size = (weight.shape[-2], weight.shape[-1])
    if size == (1, 1):
        return True
    if kernel_size == (1, 1) or not has_bilinear_form(size, kernel_size, padding_mode):
        return False
    # The forms of tiles round more: not for half precision; on accelerators they were not measured.
    return not is_tiled(size) or (
        groups == 1
        and weight.shape[1] >= _CHANNELS_WORTH_TILES
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
    )


def _is_worth_its_matrices(x: Tensor) -> bool:
    """Whether the batch is large enough for matrices that would have to be made for it."""
    return not is_tiled((x.shape[-2], x.shape[-1])) or len(x) * x.shape[-1] >= _BATCH_WORTH_TILES


def _has_blocked_layout(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch._C._get_mkldnn_enabled()
        # The tensors of `torch.func.vmap` have no such layout, nor has a batch of gradients from
        # `torch.autograd.grad` with ``is_grads_batched``.
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._functorch.is_legacy_batchedtensor(x)
    )


class _Direct:
    def __init__(self, weight: Tensor, groups: int, padding_mode: str) -> None:
        self.kept: list[Tensor] = []
        self.weight, self.groups, self.padding_mode = weight, groups, padding_mode
        self._total: Tensor | None = None

    def enter(self, maps: Tensor) -> Tensor:
        return maps.to_dense() if maps.is_mkldnn else maps

    def leave(self, maps: Tensor) -> Tensor:
        return maps

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        if shift == 0 and sign == 1:
            return self._convolve(maps, self.weight)
        # A shift of the middle taps is a pass over the filter instead of one over the maps: the smaller is taken.
        if maps.numel() > self.weight.numel():
            return self._convolve(maps, self._shifted(shift, sign))
        result = self._convolve(maps, self.weight)
        return (result if sign == 1 else result.neg_()).add_(maps, alpha=shift)

    def apply_first(self, maps: Tensor, shift: float, channels: int) -> Tensor:
        return self.leave(self._convolve(maps, self._shifted(shift, 1)[:channels]))

    def apply_to_first(self, maps: Tensor, shift: float) -> Tensor:
        return self._convolve(self.enter(maps), self._shifted(shift, -1)[:, : maps.shape[1]].contiguous())

    def collect(self, maps: Tensor, gradient: Tensor, sign: int) -> None:
        part = self._one_gradient(maps, gradient)
        if self._total is not None:
            self._total.add_(part, alpha=sign)
        else:
            self._total = part if sign == 1 else part.neg_()

    def filter_gradient(self) -> Tensor:
        return torch.zeros_like(self.weight) if self._total is None else self._total

    def _one_gradient(self, maps: Tensor, gradient: Tensor) -> Tensor:
        # Of a gradient of the first channels, their rows of the filter are all that it reaches.
        rows = self.weight[: gradient.shape[1]]
        part = same_convolution_weight_gradient(maps, gradient, rows, self.groups, self.padding_mode)
        missing = len(self.weight) - len(part)
        return F.pad(part, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else part

    def _convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        return same_convolution(maps, weight, self.groups, self.padding_mode)

    def _shifted(self, shift: float, sign: int) -> Tensor:
        shifted = self.weight.clone() if sign == 1 else -self.weight
        rows, columns = (length // 2 for length in shifted.shape[-2:])
        middle = torch.unflatten(shifted, 0, (self.groups, -1))[..., rows, columns]
        middle.diagonal(dim1=-2, dim2=-1).add_(shift)
        return shifted


class _Blocked(_Direct):
    """Zero padding, with maps in the opaque layout of oneDNN."""

    def __init__(self, weight: Tensor, groups: int) -> None:
        super().__init__(weight, groups, "zeros")

    def enter(self, maps: Tensor) -> Tensor:
        return maps if maps.is_mkldnn else maps.contiguous().to_mkldnn()

    def leave(self, maps: Tensor) -> Tensor:
        return maps.to_dense()

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        if shift == 0 and sign == 1:
            return self._convolve(maps, self.weight)
        return self._convolve(maps, self._shifted(shift, sign))


class _Products:
    """Maps of few pixels as (H W, groups B c/groups), and K as a product of channels for each of r forms."""

    def __init__(self, x: Tensor, weight: Tensor, groups: int, padding_mode: str, kept: Sequence[Tensor]) -> None:
        self.batch, self.weight, self.groups = len(x), weight, groups
        self.size = (x.shape[-2], x.shape[-1])
        self.form = bilinear_form(self.size, (weight.shape[-2], weight.shape[-1]), padding_mode, like=weight)
        (self.matrices,) = kept or operator_tensors(weight, self.size, groups, padding_mode)
        # A view of the filter itself is no tensor of its own to keep, and those of small groups are soon made again.
        self.kept = [] if self.form.taps.numel() == 1 or groups > 1 else [self.matrices]
        self._pixels = self.size[0] * self.size[1]
        # What each matrix is multiplied with: a form for tiles has as many rows for a matrix, and one group.
        self._columns = prod([len(factor) for factor in self.form.input]) // len(self.form.taps) * self.batch
        # For the gradient, of the matrices and what it is made of, the smaller is passed over once more.
        self._gradient_at_once = 2 * self._columns < self.matrices.shape[2]
        self._collected: list[tuple[Tensor, Tensor]] = []
        self._total: Tensor | None = None

    def enter(self, maps: Tensor) -> Tensor:
        if maps.dim() == 2:
            return maps
        entries = self.batch * maps.shape[1]
        if self.groups == 1:  # a plain transposition, which is copied faster than a permutation of four dimensions
            return maps.reshape(entries, self._pixels).t().contiguous()
        grouped = maps.reshape(self.batch, self.groups, maps.shape[1] // self.groups, self._pixels)
        return grouped.permute(3, 1, 0, 2).reshape(self._pixels, entries)

    def leave(self, maps: Tensor) -> Tensor:
        channels = self._channels(maps)
        grouped = maps.view(self._pixels, self.groups, self.batch, channels // self.groups).permute(2, 1, 3, 0)
        return grouped.reshape(self.batch, channels, *self.size)

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        return self._gather(torch.bmm(self._spread(maps), self.matrices.mT), maps, shift, sign)

    def apply_first(self, maps: Tensor, shift: float, channels: int) -> Tensor:
        products = torch.bmm(self._spread(maps), self.matrices[:, :channels].mT)
        return self.leave(self._gather(products, self._first(maps, channels).flatten(1), shift, 1))

    def apply_to_first(self, maps: Tensor, shift: float) -> Tensor:
        first, channels = self.enter(maps), maps.shape[1]
        result = self._gather(torch.bmm(self._spread(first), self.matrices[..., :channels].mT), None, 0.0, -1)
        own = self._first(result, channels)
        own.add_(first.view_as(own), alpha=shift)
        return result

    def collect(self, maps: Tensor, gradient: Tensor, sign: int) -> None:
        # The gradient may be that of the first channels, as (B, first channels, H, W).
        factors = _with_sign([factor.mT for factor in self.form.output], sign)
        gathered = self._products_of(factors, self.enter(gradient))
        missing = self.matrices.shape[1] - gathered.shape[2]
        gathered, spread = F.pad(gathered, (0, missing)) if missing else gathered, self._spread(maps)
        if self._gradient_at_once:
            self._collected.append((gathered, spread))
        elif self._total is None:
            self._total = torch.bmm(gathered.mT, spread)
        else:
            self._total.baddbmm_(gathered.mT, spread)

    def filter_gradient(self) -> Tensor:
        matrices = self._gradient_of_matrices()
        return (matrices.view(len(self.form.taps), -1).mT @ self.form.taps).view_as(self.weight)

    def _gradient_of_matrices(self) -> Tensor:
        if self._total is not None:
            return self._total
        gathered = torch.cat([each for each, _ in self._collected], dim=1)
        spread = torch.cat([each for _, each in self._collected], dim=1)
        # Parts are freed at once.
        self._collected.clear()
        return torch.bmm(gathered.mT, spread)

    def _channels(self, maps: Tensor) -> int:
        """Of all groups, of maps in this form."""
        return maps.shape[1] // self.batch

    def _first(self, maps: Tensor, channels: int) -> Tensor:
        """A view of the first channels of one group: (H W, B, channels)."""
        return maps.view(self._pixels, self.batch, self._channels(maps))[..., :channels]

    def _spread(self, maps: Tensor) -> Tensor:
        """(r groups, tiles B, channels): what the filter's matrices are multiplied with."""
        return self._products_of(self.form.input, maps)

    def _products_of(self, factors: Sequence[Tensor], maps: Tensor) -> Tensor:
        products = transform(factors, maps)
        return products.view(len(self.form.taps) * self.groups, self._columns, self._channels(maps) // self.groups)

    def _gather(self, products: Tensor, own: Tensor | None, shift: float, sign: int) -> Tensor:
        """The pixels that the products make, plus shift times those that there were."""
        rows = prod([factor.shape[1] for factor in self.form.output])
        lines = products.view(rows, products.numel() // rows)
        factors = _with_sign(self.form.output, sign)
        if own is None or shift == 0:
            return transform(factors, lines)
        if len(factors) > 1:
            return transform(factors, lines).add_(own, alpha=shift)
        return torch.addmm(own, factors[0], lines, beta=shift)


def _with_sign(factors: Sequence[Tensor], sign: int) -> Sequence[Tensor]:
    """The factors of sign times their product."""
    first, *others = factors
    return factors if sign == 1 else (-first, *others)
