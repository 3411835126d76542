"""Rounding upwards against exact rational arithmetic."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lipnet.functional import product_up, round_up, square_root_up
from lipnet.functional.norm_bounds import reshaped_filter_bound, spectral_norm_bound, symbol_bound
from lipnet.functional.pairwise import row_distances
from lipnet.functional.rounding import to_float64
from lipnet.functional.rounding_error import absolute_filter_norm, absolute_norm, euclidean_norm
from lipnet.layers import Householder, NormalizedLinear


def random_fractions(count: int) -> list[Fraction]:
    source = random.Random(0)
    return [
        Fraction(source.randrange(1, 10**30), source.randrange(1, 10**30)) * Fraction(2) ** source.randrange(-60, 60)
        for _ in range(count)
    ]


def test_round_up_gives_the_smallest_float_that_is_not_below() -> None:
    moved = 0
    for value in random_fractions(500):
        rounded = round_up(value)
        assert Fraction(math.nextafter(rounded, -math.inf)) < value <= Fraction(rounded)
        moved += rounded != float(value)
    # Rounding to nearest goes down about every other time: a round_up that never moved would be none.
    assert 150 < moved < 350


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -2.5])
def test_floats_stay_as_they_are(value: float) -> None:
    assert round_up(Fraction(value)) == value


def test_square_root_up_is_not_below_and_tight() -> None:
    for value in random_fractions(500):
        root = square_root_up(value)
        below = math.nextafter(math.nextafter(root, -math.inf), -math.inf)
        assert Fraction(below) ** 2 < value <= Fraction(root) ** 2


@pytest.mark.parametrize("root", [0.0, 1.0, 0.1, 3.0, 1 / 3, 1e-100, 1.2345678901234567e100])
def test_square_roots_that_are_floats_are_exact(root: float) -> None:
    assert square_root_up(Fraction(root) ** 2) == root


def test_square_root_of_just_more_than_one_exceeds_one() -> None:
    assert square_root_up(1 + Fraction(1, 10**40)) == math.nextafter(1.0, 2.0)


def test_product_up_is_not_below_the_exact_product() -> None:
    source = random.Random(1)
    for count in (1, 2, 15, 100):
        factors = [source.uniform(0.5, 2) for _ in range(count)]
        exact = math.prod(map(Fraction, factors))
        result = Fraction(product_up(factors))
        assert exact <= result <= exact * (1 + Fraction(count, 2**52))


def test_product_of_ones_is_exactly_one() -> None:
    assert product_up([1.0] * 1000) == 1.0
    assert product_up([]) == 1.0
    assert product_up(iter([0.5, 0.0, 3.0])) == 0.0


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_factor_that_is_not_finite_gives_infinity(factor: float) -> None:
    assert product_up([1.0, factor, 2.0]) == math.inf
    assert product_up([0.0, factor]) == math.inf


def test_results_beyond_the_largest_float_are_infinite() -> None:
    huge = Fraction(10) ** 400
    assert round_up(huge) == math.inf
    assert square_root_up(huge**2) == math.inf
    assert product_up([1e200, 1e200]) == math.inf


@pytest.mark.parametrize("bound", [to_float64, spectral_norm_bound, row_distances, euclidean_norm, absolute_norm])
def test_complex_matrices_have_no_bound(bound: Callable[[Tensor], object]) -> None:
    with pytest.raises(ValueError, match=r"bounds need real values, got dtype torch\.complex64"):
        bound(1j * torch.eye(2))


@pytest.mark.parametrize("bound", [reshaped_filter_bound, symbol_bound, absolute_filter_norm])
def test_complex_filters_have_no_bound(bound: Callable[[Tensor], object]) -> None:
    with pytest.raises(ValueError, match=r"bounds need real values, got dtype torch\.complex128"):
        bound(1j * torch.eye(2, dtype=torch.float64).view(2, 2, 1, 1))


def test_complex_layers_have_no_bound() -> None:
    for layer in (NormalizedLinear(2, 3, dtype=torch.complex64), Householder(2, dtype=torch.complex64)):
        with pytest.raises(ValueError, match=r"bounds need real values, got dtype torch\.complex64"):
            layer.lipschitz_bound()
