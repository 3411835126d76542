"""Additive updates of low displacement rank: circulant, skew-circulant, Toeplitz, and sums of their products."""

from math import sqrt
from typing import Unpack

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
from lipnet.structured.orthogonal import TensorOptions


class Circulant(AdditiveUpdate):
    """D[i, j] = c[(i - j) mod n]: the upper left corner of an n x n circulant matrix, n = max(out, in), n parameters.

    Args:
        out_features, in_features: shape of W.
        options: ``device`` and ``dtype`` of the parameter ``column``, c.

    Source: Sehanobish et al., "Structured unrestricted-rank matrices", NeurIPS 2024 (arXiv 2406.17740).
    """

    linear_parameter = "column"

    def __init__(self, out_features: int, in_features: int, **options: Unpack[TensorOptions]) -> None:
        super().__init__(out_features, in_features)
        self.column = nn.Parameter(torch.zeros(max(self.shape), **options))

    def to_dense(self) -> Tensor:
        return circulant_matrix(self.column, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return circulant_product(self.column, self._padded(x))[..., : self.shape[0]]


class SkewCirculant(Circulant):
    """A `Circulant` with the entries above the diagonal negated."""

    def to_dense(self) -> Tensor:
        return skew_circulant_matrix(self.column, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return skew_circulant_product(self.column, self._padded(x))[..., : self.shape[0]]


class Toeplitz(AdditiveUpdate):
    """D[i, j] = d[i - j + in - 1]: constant along its diagonals, of any shape, with out + in - 1 parameters.

    Args:
        out_features, in_features: shape of W.
        options: ``device`` and ``dtype`` of the parameter ``diagonals``, d.

    Source: Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
    """

    linear_parameter = "diagonals"

    def __init__(self, out_features: int, in_features: int, **options: Unpack[TensorOptions]) -> None:
        super().__init__(out_features, in_features)
        self.diagonals = nn.Parameter(torch.zeros(out_features + in_features - 1, **options))

    def to_dense(self) -> Tensor:
        return toeplitz_matrix(self.diagonals, *self.shape)

    def matmul(self, x: Tensor) -> Tensor:
        return toeplitz_product(self.diagonals, x)


class LowDisplacementRank(AdditiveUpdate):
    """The upper left corner of D = sum_{i <= r} circ(g_i) skew-circ(h_i), n x n with n = max(out, in).

    The g_i start at zero, the h_i normal with variance 1 / n. Together they have 2 n r parameters.

    Args:
        out_features, in_features: shape of W.
        rank: r.
        options: ``device`` and ``dtype`` of the parameters ``circulant``, the g_i, and ``skew_circulant``, the h_i.

    Raises:
        ValueError: for a rank below 1.

    Source: Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
    """

    linear_parameter = "circulant"

    def __init__(self, out_features: int, in_features: int, rank: int = 1, **options: Unpack[TensorOptions]) -> None:
        super().__init__(out_features, in_features)
        check_rank(rank)
        size = max(self.shape)
        self.circulant = nn.Parameter(torch.zeros(rank, size, **options))
        self.skew_circulant = nn.Parameter(nn.init.normal_(torch.empty(rank, size, **options), std=1 / sqrt(size)))

    def to_dense(self) -> Tensor:
        # One product for each column D e_j, or for each row D^T e_i if there are fewer rows.
        rows, columns = self.shape
        units = torch.eye(min(rows, columns), columns, dtype=self.circulant.dtype, device=self.circulant.device)
        if rows >= columns:
            # matmul takes vectors as rows, so that row j of its result is column j of D.
            return self.matmul(units).mT
        circulant = torch.cat([self.circulant[:, :1], self.circulant[:, 1:].flip(-1)], dim=-1)
        skew_circulant = torch.cat([self.skew_circulant[:, :1], -self.skew_circulant[:, 1:].flip(-1)], dim=-1)
        return skew_circulant_product(skew_circulant, circulant_product(circulant, units.unsqueeze(-2))).sum(dim=-2)

    def matmul(self, x: Tensor) -> Tensor:
        inner = skew_circulant_product(self.skew_circulant, self._padded(x).unsqueeze(-2))
        return circulant_product(self.circulant, inner).sum(dim=-2)[..., : self.shape[0]]
