"""Roots of unity, from which the matrices of Fourier transforms are made."""

from fractions import Fraction
from functools import lru_cache
from math import cos, pi, sin

import torch
from torch import Tensor


def unit_roots(turns: Tensor, length: int) -> Tensor:
    """Compute e^{2 pi i k / n} with a small relative error in both parts, even near their zeros.

    A part that is exactly 0 is computed as 0. Sines of rounded angles give 1e-16 there instead. Products of such noise
    are subnormal in float32, which makes matrix products on a processor several times slower.

    Args:
        turns: integers k.
        length: n.

    Returns:
        A complex128 tensor of the shape of ``turns``.

    Example:
        >>> unit_roots(torch.tensor([0, 1, 2, -1]), 4)
        tensor([ 1.+0.j,  0.+1.j, -1.+0.j,  0.-1.j], dtype=torch.complex128)
    """
    return torch.tensor(_roots(length), dtype=torch.complex128)[turns % length]


@lru_cache(maxsize=64)
def _roots(length: int) -> tuple[complex, ...]:
    turns = [Fraction(k, length) for k in range(length)]
    return tuple(complex(_cosine(each), _cosine(each - Fraction(1, 4))) for each in turns)


def _cosine(turns: Fraction) -> float:
    """Return cos(2 pi turns), with a small relative error even near its zeros."""
    turns = turns % 1
    turns = min(turns, 1 - turns)
    sign = 1.0
    if turns > Fraction(1, 4):
        turns, sign = Fraction(1, 2) - turns, -1.0
    if turns <= Fraction(1, 8):
        return sign * cos(2 * pi * float(turns))
    return sign * sin(2 * pi * float(Fraction(1, 4) - turns))
