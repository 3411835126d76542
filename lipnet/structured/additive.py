"""Structured matrices added to a weight, starting at zero: the interface, low rank (LoRA) and Kronecker products."""

from abc import abstractmethod
from math import isfinite, isqrt, sqrt
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipnet.functional.autocast import without_autocast
from lipnet.structured.orthogonal import TensorOptions
from lipnet.structured.updates import WeightUpdate


class AdditiveUpdate(WeightUpdate):
    """W' = W + D with a structured D (out_features, in_features) that starts at zero.

    Where a structure is square, of size n = max(out_features, in_features), a rectangular D is its upper left corner:
    inputs are padded with zeros to n, and the first ``out_features`` outputs are kept.

    Attributes:
        linear_parameter: name of the parameter that D is linear in. It starts at zero.
    """

    linear_parameter: ClassVar[str]

    @abstractmethod
    def to_dense(self) -> Tensor:
        """Return D as a dense (out_features, in_features) matrix."""

    @abstractmethod
    def matmul(self, x: Tensor) -> Tensor:
        """Return D x for vectors x (..., in_features), as (..., out_features), without forming D."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.to_dense()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x, weight, bias)
        with without_autocast(x.device):
            added = self.matmul(x.to(torch.promote_types(x.dtype, next(self.parameters()).dtype)))
        return y + added.to(y.dtype)

    def interpolated(self, strength: float) -> dict[str, Tensor]:
        """Return parameters that give t D."""
        return {self.linear_parameter: strength * self.get_parameter(self.linear_parameter)}

    def extra_repr(self) -> str:
        return f"{self.shape[0]}, {self.shape[1]}"

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, max(self.shape) - self.shape[1]))


class LowRank(AdditiveUpdate):
    """LoRA: D = (alpha / r) B A with B (out, r) starting at zero and A (r, in) uniform in +-1 / sqrt(in).

    Args:
        out_features, in_features: shape of W.
        rank: r.
        alpha: scale. If alpha / r stays the same, the size of training steps hardly depends on the rank.
        options: ``device`` and ``dtype`` of A and B.

    Raises:
        ValueError: if the rank is below 1, or alpha is not finite and positive.

    Source: Hu et al., "LoRA", ICLR 2022 (arXiv 2106.09685), equation 3.

    Example:
        >>> sum(parameter.numel() for parameter in LowRank(768, 3072, rank=8).parameters())
        30720
    """

    linear_parameter = "B"

    def __init__(
        self, out_features: int, in_features: int, rank: int = 8, alpha: float = 16.0, **options: Unpack[TensorOptions]
    ) -> None:
        super().__init__(out_features, in_features)
        check_rank(rank)
        if not (isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be finite and positive, got {alpha}")
        self.scaling = alpha / rank
        limit = 1 / sqrt(in_features)
        self.A = nn.Parameter(nn.init.uniform_(torch.empty(rank, in_features, **options), -limit, limit))
        self.B = nn.Parameter(torch.zeros(out_features, rank, **options))

    def to_dense(self) -> Tensor:
        return self.scaling * (self.B @ self.A)

    def matmul(self, x: Tensor) -> Tensor:
        return self.scaling * F.linear(F.linear(x, self.A), self.B)


class Kronecker(AdditiveUpdate):
    """D = A kron B, of any shape: A starts at zero, B is uniform in +-1 / sqrt(its columns).

    Args:
        out_features, in_features: shape of W.
        left_shape: shape of A, which must divide the shape of W. By default, the largest divisors up to the square
            roots, which need few parameters.
        options: ``device`` and ``dtype`` of A and B.

    Raises:
        ValueError: if the left shape does not divide the shape of W.

    Source: Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).

    Example:
        >>> update = Kronecker(768, 3072)
        >>> tuple(update.left.shape), tuple(update.right.shape)
        ((24, 48), (32, 64))
    """

    linear_parameter = "left"

    def __init__(
        self,
        out_features: int,
        in_features: int,
        left_shape: tuple[int, int] | None = None,
        **options: Unpack[TensorOptions],
    ) -> None:
        super().__init__(out_features, in_features)
        rows, columns = left_shape or (_balanced_divisor(out_features), _balanced_divisor(in_features))
        if min(rows, columns) < 1 or out_features % rows or in_features % columns:
            raise ValueError(
                f"left_shape must divide the weight's shape {out_features} x {in_features}, got {rows} x {columns}"
            )
        right = torch.empty(out_features // rows, in_features // columns, **options)
        limit = 1 / sqrt(right.shape[1])
        self.left = nn.Parameter(torch.zeros(rows, columns, **options))
        self.right = nn.Parameter(nn.init.uniform_(right, -limit, limit))

    def to_dense(self) -> Tensor:
        return torch.kron(self.left, self.right)

    def matmul(self, x: Tensor) -> Tensor:
        # (A kron B) vec(X) = vec(A X B^T), with X filled row by row.
        matrices = torch.unflatten(x, -1, (self.left.shape[1], self.right.shape[1]))
        return (self.left @ matrices @ self.right.mT).flatten(-2)


def check_rank(rank: int) -> None:
    """Raise ValueError for a rank below 1."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")


def _balanced_divisor(number: int) -> int:
    """Return the largest divisor up to the square root."""
    return next(divisor for divisor in range(isqrt(number), 0, -1) if number % divisor == 0)
