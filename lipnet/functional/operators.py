"""How a convolution that is applied many times in a row is best computed: in which layout, as what."""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import (
    PADDING_MODES,
    filter_of_matrices,
    jacobian_matrices,
    same_convolution,
    same_convolution_weight_gradient,
)

# Up to so many pixels, most of a 3 x 3 kernel's taps fall on padding, and one matrix for all pixels is the cheaper
# form.
_PIXELS_OF_MATRICES = 4


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

    def filter_gradient(self, pairs: Sequence[tuple[Tensor, Tensor, int]]) -> Tensor:
        """The sum over (maps, gradient, sign) of what the filter receives if sign K maps receives the gradient."""


def operator_tensors(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> list[Tensor]:
    """What an operator for maps of one size makes of the filter before it is applied, if that is worth keeping."""
    return [jacobian_matrices(weight, size, groups, padding_mode)] if size[0] * size[1] <= _PIXELS_OF_MATRICES else []


def convolution_operator(
    x: Tensor, weight: Tensor, groups: int, padding_mode: str, kept: Sequence[Tensor] = ()
) -> ConvolutionOperator:
    """The cheapest form of the convolution for maps like x.

    On maps of at most four pixels: a matrix for each group. On the CPU in float32: the blocked layout of its
    library, into and out of which every convolution would otherwise convert. Else: the convolution as it is.

    Raises:
        ValueError: for another padding mode than ``"zeros"`` and ``"circular"``.
    """
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, received {padding_mode!r}")
    if x.shape[-2] * x.shape[-1] <= _PIXELS_OF_MATRICES:
        return _Matrices(x, weight, groups, padding_mode, kept)
    if padding_mode == "zeros" and _has_blocked_layout(x):
        return _Blocked(weight, groups)
    return _Direct(weight, groups, padding_mode)


def _has_blocked_layout(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch._C._get_mkldnn_enabled()
        # A batch of gradients from `torch.autograd.grad` with ``is_grads_batched`` has no such layout.
        and not torch._C._functorch.is_legacy_batchedtensor(x)
    )


class _Direct:
    def __init__(self, weight: Tensor, groups: int, padding_mode: str) -> None:
        self.kept: list[Tensor] = []
        self.weight, self.groups, self.padding_mode = weight, groups, padding_mode

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

    def filter_gradient(self, pairs: Sequence[tuple[Tensor, Tensor, int]]) -> Tensor:
        (maps, gradient, sign), *others = pairs
        total = self._one_gradient(maps, gradient)
        total = total if sign == 1 else total.neg_()
        for maps, gradient, sign in others:
            total.add_(self._one_gradient(maps, gradient), alpha=sign)
        return total

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


class _Matrices:
    """Maps as (groups, B, n), n = c/groups H W, and K as a matrix (n, n) for each group."""

    def __init__(self, x: Tensor, weight: Tensor, groups: int, padding_mode: str, kept: Sequence[Tensor]) -> None:
        self.batch, self.weight, self.groups, self.padding_mode = len(x), weight, groups, padding_mode
        self.size = (x.shape[-2], x.shape[-1])
        matrices = kept[0] if kept else jacobian_matrices(weight, self.size, groups, padding_mode)
        # A 1 x 1 filter is its own matrix on a single pixel.
        self.kept = [] if matrices.numel() == weight.numel() else [matrices]
        self.transposed = matrices.mT

    def enter(self, maps: Tensor) -> Tensor:
        if maps.dim() == 3:
            return maps
        return maps.reshape(self.batch, self.groups, self.transposed.shape[1]).transpose(0, 1)

    def leave(self, maps: Tensor) -> Tensor:
        return maps.transpose(0, 1).reshape(self.batch, self.weight.shape[0], *self.size)

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        return torch.baddbmm(maps, maps, self.transposed, beta=shift, alpha=sign)

    def apply_first(self, maps: Tensor, shift: float, channels: int) -> Tensor:
        entries = channels * self.size[0] * self.size[1]
        first = torch.baddbmm(maps[..., :entries], maps, self.transposed[..., :entries], beta=shift)
        return first.view(self.batch, channels, *self.size)

    def apply_to_first(self, maps: Tensor, shift: float) -> Tensor:
        first = maps.reshape(1, self.batch, -1)
        result = torch.bmm(-first, self.transposed[:, : first.shape[2]])
        result[..., : first.shape[2]].add_(first, alpha=shift)
        return result

    def filter_gradient(self, pairs: Sequence[tuple[Tensor, Tensor, int]]) -> Tensor:
        entries = self.transposed.shape[1]
        maps = torch.cat([each for each, _, _ in pairs], dim=1)
        signed = (self._entered(gradient) * sign for _, gradient, sign in pairs)
        gradients = torch.cat([F.pad(each, (0, entries - each.shape[2])) for each in signed], dim=1)
        matrices = torch.bmm(gradients.mT, maps)
        return filter_of_matrices(matrices, self.weight, self.size, self.padding_mode)

    def _entered(self, gradient: Tensor) -> Tensor:
        """A gradient in the operator's form, or one of the first channels, which is not."""
        return gradient if gradient.dim() == 3 else gradient.reshape(1, self.batch, -1)
