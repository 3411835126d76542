"""Activations that sort or fold channels, and so keep the norm of the gradient."""

from typing import ClassVar

import torch
from torch import Tensor

from lipnet.functional import sort_pairs
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers.base import LipschitzModule


class _PairwiseSort(LipschitzModule):
    """Sorting of pairs of channels: neighbours, or channels that are half the channels apart."""

    _neighbours: ClassVar[bool]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % 2:
            raise ValueError(
                f"{type(self).__name__} needs an even number of channels in (B, C, ...), got {tuple(x.shape)}"
            )
        if self._neighbours:
            # Neighbours are strided if the channels are next to each other in memory.
            x = x.contiguous()
            pairs = x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])
            return torch.stack(sort_pairs(*pairs.unbind(dim=2)), dim=2).flatten(1, 2)
        return torch.cat(sort_pairs(*x.chunk(2, dim=1)), dim=1)

    def lipschitz_bound(self) -> float:
        """Return 1: sorting never moves two inputs apart."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Return an exact step: entries are sorted, not changed."""
        return exact(signal)


class MaxMin(_PairwiseSort):
    """MaxMin activation: sorts channel i against channel i + C/2.

    The maxima become the first half of the channels, the minima the second.

    Shape:
        (B, C, ...) with even C, to the same shape.

    Raises:
        ValueError: for an odd number of channels.

    Source: Anil, Lucas & Grosse, "Sorting out Lipschitz function approximation", ICML 2019.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 2.0, 3.0, 0.0]])).tolist()
        [[3.0, 2.0, 1.0, 0.0]]
    """

    _neighbours = False


class MaxMinPermuted(_PairwiseSort):
    """MaxMin activation of neighbours: sorts channel 2i against channel 2i + 1.

    The maximum goes to channel 2i, the minimum to 2i + 1.

    Shape:
        (B, C, ...) with even C, to the same shape.

    Raises:
        ValueError: for an odd number of channels.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> MaxMinPermuted()(torch.tensor([[1.0, 2.0, 3.0, 0.0]])).tolist()
        [[2.0, 1.0, 3.0, 0.0]]
    """

    _neighbours = True


class BetaAbs(LipschitzModule):
    r"""Beta-abs activation: the absolute value of the first share beta of the channels, the identity on the rest.

    :math:`y_c = |x_c|` for :math:`c < \mathrm{round}(\beta C)` and :math:`y_c = x_c` otherwise. With beta = 1/2 and
    a rotation of each pair (c, c + C/2) by 45 degrees before and after it, it is `MaxMin`.

    Args:
        beta: the share, in [0, 1].

    Shape:
        (B, C, ...) to the same shape.

    Raises:
        ValueError: for a share out of range, and for inputs without channels.

    Source: LipNeXt (arXiv 2601.18513).

    Example:
        >>> BetaAbs()(torch.tensor([[-1.0, -2.0, -3.0, 4.0]])).tolist()
        [[1.0, 2.0, -3.0, 4.0]]
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2:
            raise ValueError(f"BetaAbs needs an input of shape (B, C, ...), got {tuple(x.shape)}")
        count = round(self.beta * x.shape[1])
        return torch.cat([x[:, :count].abs(), x[:, count:]], dim=1)

    def lipschitz_bound(self) -> float:
        """Return 1: absolute values never move two numbers apart."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Return an exact step: signs change, magnitudes do not."""
        return exact(signal)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"
