"""Arithmetic for bounds: conversion to float64 without error, and floats that are never below the exact result."""

import sys
from collections.abc import Iterable
from fractions import Fraction
from math import ceil, inf, isfinite, isqrt, nextafter

from torch import Tensor

BELOW_NORMAL = 2.0**-1068
"""Room for the rounding of a norm below the normal range, where a factor of 1 + 1e-10 rounds to 1. Larger norms keep
their figures."""


def to_float64(values: Tensor) -> Tensor:
    """Convert real values to float64, without error.

    Raises:
        ValueError: for complex values, whose imaginary part ``Tensor.double`` would drop.
    """
    if values.is_complex():
        raise ValueError(f"bounds need real values, got dtype {values.dtype}")
    return values.double()


def round_up(value: Fraction) -> float:
    """Return the smallest float >= value, infinity beyond the largest float."""
    try:
        nearest = float(value)
    except OverflowError:
        return inf if value > 0 else -sys.float_info.max
    return nearest if Fraction(nearest) >= value else nextafter(nearest, inf)


def square_root_up(value: Fraction) -> float:
    """Return a float >= the square root of value, exact where the root is a float."""
    # Scaled by 4^shift the value has more than 128 bits, so that its integer root holds every float exactly.
    shift = max(0, 128 - value.numerator.bit_length() + value.denominator.bit_length())
    scaled = ceil(value * 4**shift)
    root = isqrt(scaled)
    return round_up(Fraction(root + (root * root < scaled), 2**shift))


def product_up(factors: Iterable[float]) -> float:
    """Return a float >= the exact product of factors >= 0; infinity if a factor is not finite."""
    product = 1.0
    for factor in factors:
        # An infinite product stays infinite, even if another factor is 0.
        usable = isfinite(product) and isfinite(factor)
        product = round_up(Fraction(product) * Fraction(factor)) if usable else inf
    return product
