"""Block-diagonal factors between permutations: their products with matrices, and a bound on their norms."""

from fractions import Fraction
from math import inf, isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.functional import square_root_up


class Mixing(NamedTuple):
    """Which entries of a vector the blocks of a factor mix.

    A block of size b takes ``parts`` runs of b / parts neighbouring entries, the runs being ``distance`` runs apart. So
    with n = b r entries

    - ``Mixing()``: every block takes b neighbours, the block-diagonal matrix itself;
    - ``Mixing(b, r)``: block j takes the entries j, j + r, j + 2r, ..., as P^T D P with the shuffle P = P_(r, br) does;
    - ``Mixing(2, 2**l)``: a block takes two runs of b / 2 at distance 2^l, the butterfly's level l.
    """

    parts: int = 1
    distance: int = 1

    def check(self, features: int, block_size: int) -> None:
        """Raise ValueError unless vectors of so many features split into blocks of this size."""
        if min(features, block_size, *self) < 1:
            raise ValueError(
                f"features, block_size, parts and distance must be at least 1, got {features}, {block_size}, "
                f"{self.parts} and {self.distance}"
            )
        if block_size % self.parts:
            raise ValueError(f"blocks of {self.parts} runs need a block_size divisible by that, got {block_size}")
        unit = block_size * self.distance
        if features % unit:
            reason = f"block_size {block_size}" + (f" times distance {self.distance}" if self.distance > 1 else "")
            raise ValueError(f"features must be divisible by {unit} ({reason}), got {features}")


def block_product(blocks: Tensor, x: Tensor, mixing: Mixing) -> Tensor:
    """Pi^T D Pi x, with D block-diagonal and Pi the permutation that gathers each block's entries.

    Args:
        blocks: the blocks (k, b, b) of D.
        x: columns (..., k b, m).
        mixing: which entries each block takes.

    Returns:
        (..., k b, m). Neither D nor Pi is formed.
    """
    size, (parts, distance) = blocks.shape[-1], mixing
    runs = torch.unflatten(x, -2, (-1, parts, distance, size // parts))
    gathered = runs.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)
    product = torch.unflatten(blocks @ gathered, -2, (parts, size // parts))
    mixed: Tensor = torch.unflatten(product, -4, (-1, distance)).transpose(-4, -3).flatten(-5, -2)
    return mixed


def orthogonal_blocks_bound(blocks: Tensor) -> float:
    """An upper bound on the largest singular value among blocks (..., b, b) that are orthogonal up to rounding.

    ||B||^2 = ||B^T B|| <= 1 + ||B^T B - I||_F. The product is computed in float64; its rounding, at most
    gamma_b ||B||_F^2 in norm, and that of the norm are added, and the rest is rounded up. Not finite: infinity.
    """
    exact = blocks.detach().double()
    size, eps = exact.shape[-1], torch.finfo(torch.float64).eps
    gram_deviation = exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)
    deviation = torch.linalg.matrix_norm(gram_deviation) * (1 + (size**2 + 8) * eps)
    rounding = 2 * size * eps * exact.square().sum(dim=(-2, -1))
    largest = float((deviation + rounding).max())
    return square_root_up(1 + Fraction(largest)) if isfinite(largest) else inf
