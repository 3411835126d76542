"""Block-diagonal factors between permutations: products with matrices, and a bound on their norm."""

from fractions import Fraction
from math import inf, isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.functional import square_root_up


class Mixing(NamedTuple):
    """A permutation Pi, given by strides, that selects the entries of a vector that each block of a factor mixes.

    A block of size b takes ``parts`` runs of b / parts neighbouring entries; the runs are ``distance`` runs apart. For
    n = b r entries and the block-diagonal matrix D:

    - ``Mixing()``: every block takes b neighbours. Pi is the identity, and the factor is D itself.
    - ``Mixing(b, r)``: block j takes the entries j, j + r, j + 2r, ... Pi is the shuffle P = P_(r, br), and the factor
      is P^T D P.
    - ``Mixing(2, 2**l)``: a block takes two runs of b / 2 entries at distance 2^l, as level l of a butterfly.
    """

    parts: int = 1
    distance: int = 1

    def check(self, features: int, block_size: int) -> None:
        """Raise ValueError unless vectors of ``features`` entries split into blocks of this size."""
        if min(features, block_size, *self) < 1:
            raise ValueError(
                f"features, block_size, parts and distance must be at least 1, got {features}, {block_size}, "
                f"{self.parts} and {self.distance}"
            )
        if block_size % self.parts:
            raise ValueError(f"block_size must be divisible by {self.parts}, the number of runs, got {block_size}")
        unit = block_size * self.distance
        if features % unit:
            reason = f"block_size {block_size}" + (f" times distance {self.distance}" if self.distance > 1 else "")
            raise ValueError(f"features must be divisible by {unit} ({reason}), got {features}")

    def gather(self, x: Tensor, block_size: int) -> Tensor:
        """Return Pi x, split into blocks: columns (..., n, m) to (..., n / b, b, m)."""
        runs = torch.unflatten(x, -2, (-1, self.parts, self.distance, block_size // self.parts))
        return runs.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)

    def scatter(self, blocks: Tensor) -> Tensor:
        """Return Pi^T y, the inverse of `gather`: (..., n / b, b, m) to (..., n, m)."""
        runs = torch.unflatten(blocks, -2, (self.parts, blocks.shape[-2] // self.parts))
        return torch.unflatten(runs, -4, (-1, self.distance)).transpose(-4, -3).flatten(-5, -2)

    def __str__(self) -> str:
        return f"{self.parts}/{self.distance}"


class ShufflePower(NamedTuple):
    """The permutation Pi = P^times with the shuffle P = P_(r, br), for blocks of size b and n = b r entries.

    P sends entry i < n - 1 to place i b mod (n - 1). So P^times multiplies places by b^times, and its inverse by
    r^times.
    """

    times: int

    def check(self, features: int, block_size: int) -> None:
        """Raise ValueError unless vectors of ``features`` entries split into blocks of this size."""
        Mixing().check(features, block_size)

    def gather(self, x: Tensor, block_size: int) -> Tensor:
        """Return Pi x, split into blocks: columns (..., n, m) to (..., n / b, b, m)."""
        sources = self._multiples(x.shape[-2], x.shape[-2] // block_size, x.device)
        return torch.unflatten(x.index_select(-2, sources), -2, (-1, block_size))

    def scatter(self, blocks: Tensor) -> Tensor:
        """Return Pi^T y, the inverse of `gather`: (..., n / b, b, m) to (..., n, m)."""
        y = blocks.flatten(-3, -2)
        return y.index_select(-2, self._multiples(y.shape[-2], blocks.shape[-2], y.device))

    def _multiples(self, size: int, factor: int, device: torch.device) -> Tensor:
        """Return i factor^times mod (size - 1) for the places i < size - 1; the last place stays."""
        modulus = max(1, size - 1)
        power: int = factor**self.times % modulus
        places = torch.arange(size, device=device) * power % modulus
        places[-1] = size - 1
        return places

    def __str__(self) -> str:
        return f"P^{self.times}"


def block_product(blocks: Tensor, x: Tensor, mixing: Mixing | ShufflePower) -> Tensor:
    """Return Pi^T D Pi x for the block-diagonal D, without forming D or Pi.

    Args:
        blocks: the blocks (k, b, b) of D.
        x: columns (..., k b, m).
        mixing: Pi, which gathers the entries of each block.
    """
    return mixing.scatter(blocks @ mixing.gather(x, blocks.shape[-1]))


def orthogonal_blocks_bound(blocks: Tensor) -> float:
    """Bound the largest singular value among blocks (..., b, b) that are orthogonal up to rounding.

    ||B||^2 = ||B^T B|| <= 1 + ||B^T B - I||_F. The product is computed in float64. Bounds on its rounding error, which
    is at most gamma_b ||B||_F^2 in norm, and on the error of the norm are added. The rest is rounded up. Non-finite
    blocks give infinity.
    """
    exact = blocks.detach().double()
    size, eps = exact.shape[-1], torch.finfo(torch.float64).eps
    gram_deviation = exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)
    deviation = torch.linalg.matrix_norm(gram_deviation) * (1 + (size**2 + 8) * eps)
    rounding = 2 * size * eps * exact.square().sum(dim=(-2, -1))
    largest = float((deviation + rounding).max())
    return square_root_up(1 + Fraction(largest)) if isfinite(largest) else inf
