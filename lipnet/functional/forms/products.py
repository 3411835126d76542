"""The convolution on small feature maps as a few matrix products of channels."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.forms.bilinear import bilinear_form, transform
from lipnet.functional.transforms import add_scaled_


def product_matrices(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> Tensor:
    """Return the matrices of channels (r groups, c/groups, c/groups) that `Products` multiplies with."""
    taps = bilinear_form(size, (weight.shape[-2], weight.shape[-1]), padding_mode, like=weight).taps
    channels = weight.shape[1]
    if taps.numel() == 1:
        return weight.view(groups, channels, channels)
    return (taps @ weight.reshape(-1, taps.shape[1]).mT).view(-1, channels, channels)


class Products:
    """A convolution with the methods of `Direct`, on feature maps laid out as (H W, groups B c/groups).

    J is a bilinear form with r products of channels (see `lipnet.functional.forms.bilinear`).

    Args:
        x: feature maps (B, c, H, W); only their shape matters.
        weight: filter (c, c/groups, kh, kw).
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.
        matrices: result of `product_matrices` for this weight and map size; None to compute it.
    """

    def __init__(self, x: Tensor, weight: Tensor, groups: int, padding_mode: str, matrices: Tensor | None) -> None:
        self.batch, self.weight, self.groups = len(x), weight, groups
        self.size = (x.shape[-2], x.shape[-1])
        self.form = bilinear_form(self.size, (weight.shape[-2], weight.shape[-1]), padding_mode, like=weight)
        if matrices is None:
            matrices = product_matrices(weight, self.size, groups, padding_mode)
        self.matrices = matrices
        # Do not save these: matrices of a single tap are views of the filter, and those of groups are cheap to rebuild.
        self.saved = [] if self.form.taps.numel() == 1 or groups > 1 else [self.matrices]
        self._pixels = self.size[0] * self.size[1]
        # Number of columns that each matrix multiplies; a tiled form has one set of them per tile.
        self._columns = prod([len(factor) for factor in self.form.input]) // len(self.form.taps) * self.batch
        # Collect factors that are smaller than the matrices, and multiply them in one product at the end.
        self._in_one_product = 2 * self._columns < self.matrices.shape[2]
        self._collected: list[tuple[Tensor, Tensor]] = []
        self._total: Tensor | None = None

    def enter(self, maps: Tensor) -> Tensor:
        if maps.dim() == 2:
            return maps
        entries = self.batch * maps.shape[1]
        if self.groups == 1:  # copying a plain transposition is faster than permuting four dimensions
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
        shifted = self._first(result, channels)
        add_scaled_(shifted, first.view_as(shifted), shift)
        return result

    def collect(self, maps: Tensor, gradient: Tensor, sign: int) -> None:
        # The gradient may have the first channels only, as (B, first channels, H, W).
        gathered = self._products_of([factor.mT for factor in self.form.output], self.enter(gradient))
        if sign < 0:
            gathered = -gathered
        missing = self.matrices.shape[1] - gathered.shape[2]
        gathered, spread = F.pad(gathered, (0, missing)) if missing else gathered, self._spread(maps)
        if self._in_one_product:
            self._collected.append((gathered, spread))
        elif self._total is None:
            self._total = torch.bmm(gathered.mT, spread)
        else:
            self._total.baddbmm_(gathered.mT, spread)

    def filter_gradient(self) -> Tensor:
        matrices = self._total
        if matrices is None:
            gathered = torch.cat([each for each, _ in self._collected], dim=1)
            spread = torch.cat([each for _, each in self._collected], dim=1)
            self._collected.clear()  # frees the parts before the product
            matrices = torch.bmm(gathered.mT, spread)
        return (matrices.view(len(self.form.taps), -1).mT @ self.form.taps).view_as(self.weight)

    def _channels(self, maps: Tensor) -> int:
        """Return the number of channels, in all groups, of maps in this layout."""
        return maps.shape[1] // self.batch

    def _first(self, maps: Tensor, channels: int) -> Tensor:
        """Return a view (H W, B, channels) of the first channels, for one group."""
        return maps.view(self._pixels, self.batch, self._channels(maps))[..., :channels]

    def _spread(self, maps: Tensor) -> Tensor:
        """Return the input side of the form, (r groups, tiles B, channels)."""
        return self._products_of(self.form.input, maps)

    def _products_of(self, factors: Sequence[Tensor], maps: Tensor) -> Tensor:
        products = transform(factors, maps)
        return products.view(len(self.form.taps) * self.groups, self._columns, self._channels(maps) // self.groups)

    def _gather(self, products: Tensor, maps: Tensor | None, shift: float, sign: int) -> Tensor:
        """Return sign times the output side of the form, plus shift times the maps."""
        rows = prod([factor.shape[1] for factor in self.form.output])
        lines = products.view(rows, products.numel() // rows)
        if len(self.form.output) == 1 and maps is not None and shift != 0:
            return torch.addmm(maps, self.form.output[0], lines, beta=shift, alpha=sign)
        # Without factors, the result is the products, which nothing else uses.
        result = transform(self.form.output, lines)
        if sign < 0:
            result.neg_()
        return result if maps is None or shift == 0 else add_scaled_(result, maps, shift)
