"""Floats that are never below the exact result: what bounds are multiplied with."""

from collections.abc import Iterable
from fractions import Fraction
from math import inf, isfinite, nextafter, sqrt


def round_up(value: Fraction) -> float:
    """The smallest float >= value."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else nextafter(nearest, inf)


def square_root_up(value: Fraction) -> float:
    """A float >= the square root of value, exact where the root is a float."""
    root = sqrt(value)
    while Fraction(root) ** 2 < value:
        root = nextafter(root, inf)
    return root


def product_up(factors: Iterable[float]) -> float:
    """A float >= the exact product of factors >= 0; infinite if one of them is not finite."""
    product = Fraction(1)
    for factor in factors:
        if not isfinite(factor):
            return inf
        product = Fraction(round_up(product * Fraction(factor)))
    return float(product)
