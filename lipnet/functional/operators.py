"""How a convolution that is applied many times in a row is best computed: in which layout, as what."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lipnet.functional.convolution import (
    PADDING_MODES,
    filter_of_matrices,
    jacobian_matrices,
    same_convolution,
    same_convolution_weight_gradient,
)

# Up to so many pixels, most of a 3 x 3 kernel's taps fall on padding, and one matrix for all pixels is the cheaper form.
_PIXELS_OF_MATRICES = 4


class ConvolutionOperator(Protocol):
    """A 'same' convolution J, and the form in which maps are handed to it."""

    def enter(self, maps: Tensor) -> Tensor:
        """Maps (B, c, H, W) in the operator's own form."""

    def leave(self, maps: Tensor) -> Tensor:
        """Maps in the operator's form as (B, c, H, W)."""

    def convolve(self, maps: Tensor) -> Tensor:
        """J maps, in memory of their own."""

    def filter_gradient(self, states: Sequence[Tensor], powers: Sequence[Tensor]) -> Tensor:
        """sum_k (-1)^k times the filter's gradient if J states[k] receives powers[k]."""


def convolution_operator(x: Tensor, weight: Tensor, groups: int, padding_mode: str) -> ConvolutionOperator:
    """The cheapest form of the convolution for maps like x.

    On maps of at most four pixels: a matrix for each group. On the CPU in float32: the blocked layout of its
    library, into and out of which every convolution would otherwise convert. Else: the convolution as it is.

    Raises:
        ValueError: for another padding mode than ``"zeros"`` and ``"circular"``.
    """
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, received {padding_mode!r}")
    if x.shape[-2] * x.shape[-1] <= _PIXELS_OF_MATRICES:
        return _Matrices(x, weight, groups, padding_mode)
    if padding_mode == "zeros" and _has_blocked_layout(x):
        return _Blocked(weight, groups)
    return _Direct(weight, groups, padding_mode)


def _has_blocked_layout(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
    )


class _Direct:
    def __init__(self, weight: Tensor, groups: int, padding_mode: str) -> None:
        self.weight, self.groups, self.padding_mode = weight, groups, padding_mode

    def enter(self, maps: Tensor) -> Tensor:
        return maps

    def leave(self, maps: Tensor) -> Tensor:
        return maps

    def convolve(self, maps: Tensor) -> Tensor:
        return same_convolution(maps, self.weight, self.groups, self.padding_mode)

    def filter_gradient(self, states: Sequence[Tensor], powers: Sequence[Tensor]) -> Tensor:
        total = self._gradient(states[0], powers[0])
        for number, (state, power) in enumerate(zip(states[1:], powers[1:], strict=True), start=1):
            total.add_(self._gradient(state, power), alpha=-1 if number % 2 else 1)
        return total

    def _gradient(self, state: Tensor, power: Tensor) -> Tensor:
        return same_convolution_weight_gradient(state, power, self.weight, self.groups, self.padding_mode)


class _Blocked(_Direct):
    """Zero padding, with maps in the opaque layout of oneDNN."""

    def __init__(self, weight: Tensor, groups: int) -> None:
        super().__init__(weight, groups, "zeros")

    def enter(self, maps: Tensor) -> Tensor:
        return maps.contiguous().to_mkldnn()

    def leave(self, maps: Tensor) -> Tensor:
        return maps.to_dense()


class _Matrices:
    """Maps as (groups, B, n), n = c/groups H W, and J as a matrix (n, n) for each group."""

    def __init__(self, x: Tensor, weight: Tensor, groups: int, padding_mode: str) -> None:
        self.shape, self.weight, self.groups, self.padding_mode = x.shape, weight, groups, padding_mode
        self.size = (x.shape[-2], x.shape[-1])
        self.transposed = jacobian_matrices(weight, self.size, groups, padding_mode).mT

    def enter(self, maps: Tensor) -> Tensor:
        return maps.reshape(maps.shape[0], self.groups, -1).transpose(0, 1)

    def leave(self, maps: Tensor) -> Tensor:
        return maps.transpose(0, 1).reshape(self.shape)

    def convolve(self, maps: Tensor) -> Tensor:
        return torch.bmm(maps, self.transposed)

    def filter_gradient(self, states: Sequence[Tensor], powers: Sequence[Tensor]) -> Tensor:
        signed = [-power if number % 2 else power for number, power in enumerate(powers)]
        matrices = torch.bmm(torch.cat(signed, dim=1).mT, torch.cat(list(states), dim=1))
        return filter_of_matrices(matrices, self.weight, self.size, self.padding_mode)
