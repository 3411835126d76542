"""The largest gain of a polynomial of a skew-symmetric matrix, in exact rational arithmetic."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import ceil, comb, inf, isfinite

from lipnet.functional.rounding import square_root_up


def polynomial_gain(coefficients: Sequence[Fraction | float], norm: float) -> float:
    """Bound max |p(i t)| over |t| <= norm: the Lipschitz constant of p(J) for every skew J with ||J|| <= norm.

    A skew-symmetric J is normal with eigenvalues i t, |t| <= ||J||, so ||p(J)|| is the largest |p(i t)| among them.
    |p(i t)|^2 is a polynomial in t^2 with rational coefficients. The coefficients of its Bernstein form enclose its
    maximum in exact rational arithmetic; the interval is halved where the enclosure is too wide. Nothing is sampled.

    Args:
        coefficients: of p, lowest degree first; floats count as the exact numbers that they are.
        norm: an upper bound on ||J||; infinity and NaN give infinity.

    Returns:
        A float that is not below the maximum, and at most 1e-12 (relative) above it, with the norm rounded up to 20
        binary places; exactly 1.0 for Taylor polynomials that are contractions.

    Example:
        >>> polynomial_gain((1.0, 1.0, 1 / 2, 1 / 6), norm=1.5), polynomial_gain((1.0, 1.0), norm=0.75)
        (1.0, 1.25)
    """
    if not isfinite(norm):
        return inf
    # Few binary places keep the rationals short.
    exactly = tuple(Fraction(coefficient) for coefficient in coefficients)
    return _gain_up_to(exactly, Fraction(ceil(Fraction(norm) * 2**20), 2**20))


@lru_cache(maxsize=1024)
def _gain_up_to(coefficients: tuple[Fraction, ...], norm: Fraction) -> float:
    on_unit_interval = [a * norm ** (2 * degree) for degree, a in enumerate(_squared_modulus(coefficients))]
    return square_root_up(_maximum_on_unit_interval(on_unit_interval))


def _squared_modulus(coefficients: tuple[Fraction, ...]) -> list[Fraction]:
    """Return |p(i t)|^2 as a polynomial in s = t^2: the squared even part plus s times the squared odd part."""
    squared = [Fraction(0)] * len(coefficients)
    for j, a in enumerate(coefficients):
        for k, b in enumerate(coefficients):
            if (j + k) % 2 == 0:  # i^j conj(i^k) is real; the mixed terms cancel in pairs
                sign = 1 if (j - k) % 4 == 0 else -1
                squared[(j + k) // 2] += sign * a * b
    return squared


def _maximum_on_unit_interval(polynomial: list[Fraction]) -> Fraction:
    """Bound the maximum over [0, 1] from above, within 1e-12 of it, by Bernstein coefficients and bisection."""
    degree = len(polynomial) - 1
    bernstein = [
        sum((Fraction(comb(i, j), comb(degree, j)) * polynomial[j] for j in range(i + 1)), Fraction(0))
        for i in range(degree + 1)
    ]
    attained = bound = max(bernstein[0], bernstein[-1])
    pieces = [bernstein]
    while pieces:
        piece = pieces.pop()
        attained = max(attained, piece[0], piece[-1])
        highest = max(piece)
        if highest <= attained * (1 + Fraction(1, 10**12)):
            bound = max(bound, highest)
        else:
            pieces.extend(_halves(piece))
    return max(bound, attained)


def _halves(bernstein: list[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    """Return the Bernstein coefficients on either half of the interval (de Casteljau)."""
    left, right, row = [bernstein[0]], [bernstein[-1]], bernstein
    while len(row) > 1:
        row = [(a + b) / 2 for a, b in pairwise(row)]
        left.append(row[0])
        right.append(row[-1])
    return left, right[::-1]
