"""Additive updates of low displacement rank: circulant, skew-circulant, Toeplitz, and sums of products of these."""

from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from lipnet.structured.additive import AdditiveUpdate, check_rank
from lipnet.structured.circulant import (
    circulant_matrix,
    circulant_product,
    skew_circulant_matrix,
    skew_circulant_product,
    toeplitz_matrix,
    toeplitz_product,
)


class Circulant(AdditiveUpdate):
    """D is the upper left corner of an n x n circulant matrix, n = max(out, in), with n parameters.

    Args:
        out_features, in_features: shape of W.

    Source: Sehanobish et al., "Structured unrestricted-rank matrices", NeurIPS 2024 (arXiv 2406.17740).
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(out_features, in_features)
        self.column = nn.Parameter(torch.zeros(max(self.shape), device=device, dtype=dtype))

    def to_dense(self) -> Tensor:
        return circulant_matrix(self.column, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return circulant_product(self.column, self._padded(x))[..., : self.shape[0]]


class SkewCirculant(Circulant):
    """As `Circulant`, with the entries above the diagonal negated."""

    def to_dense(self) -> Tensor:
        return skew_circulant_matrix(self.column, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return skew_circulant_product(self.column, self._padded(x))[..., : self.shape[0]]


class Toeplitz(AdditiveUpdate):
    """D is constant along its diagonals, with out + in - 1 parameters; rectangular as it is.

    Args:
        out_features, in_features: shape of W.

    Source: Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(out_features, in_features)
        self.diagonals = nn.Parameter(torch.zeros(out_features + in_features - 1, device=device, dtype=dtype))

    def to_dense(self) -> Tensor:
        return toeplitz_matrix(self.diagonals, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return toeplitz_product(self.diagonals, x)


class LowDisplacementRank(AdditiveUpdate):
    """D is the upper left corner of sum_{i <= r} circ(g_i) skew-circ(h_i), n x n with n = max(out, in).

    The g start at zero, the h normal with variance 1 / n; 2 n r parameters.

    Args:
        out_features, in_features: shape of W.
        rank: r.

    Raises:
        ValueError: for a rank below 1.

    Source: Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        rank: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(out_features, in_features)
        check_rank(rank)
        size = max(self.shape)
        empty = partial(torch.empty, rank, size, device=device, dtype=dtype)
        self.circulant = nn.Parameter(torch.zeros_like(empty()))
        self.skew_circulant = nn.Parameter(nn.init.normal_(empty(), std=1 / sqrt(size)))

    def to_dense(self) -> Tensor:
        # Row j of the identity, as a vector, gives column j.
        columns = torch.eye(self.shape[1], dtype=self.circulant.dtype, device=self.circulant.device)
        return self.matmul(columns).mT

    def matmul(self, x: Tensor) -> Tensor:
        inner = skew_circulant_product(self.skew_circulant, self._padded(x).unsqueeze(-2))
        return circulant_product(self.circulant, inner).sum(dim=-2)[..., : self.shape[0]]
