"""Rounding bounds against exact rational arithmetic, and against the norms that they bound."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional.rounding_error import (
    TINY,
    UNIT,
    Signal,
    Step,
    absolute_filter_norm,
    absolute_norm,
    accumulated,
    addition,
    elementwise,
    euclidean_norm,
    exact,
    products,
    up,
)
from tests.oracles import convolution_matrix, spectral_norm


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 1000, 10**9])
def test_accumulated_roundings_are_gamma(n: int) -> None:
    share = Fraction(n, 2**53)
    assert accumulated(n) == pytest.approx(float(share / (1 - share)), rel=1e-15)


def test_sums_without_a_useful_bound_are_refused() -> None:
    with pytest.raises(ValueError, match=r"roundings must be below 2\^52 .*, got 4503599627370496"):
        accumulated(2**52)


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-300, 1.0, 1e300])
def test_up_is_above_thousands_of_roundings(value: float) -> None:
    assert Fraction(up(value)) > Fraction(value) * (1 + 4000 * Fraction(UNIT))
    assert up(value) <= value * (1 + 1e-12) + 1e-300


def test_up_turns_nan_into_infinity() -> None:
    assert up(nan) == up(inf) == inf


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (20, 5), (40, 40)])
def test_absolute_norm_is_that_of_the_matrix_of_magnitudes(shape: tuple[int, int], scale: float) -> None:
    matrices = scale * noise(3, *shape)
    true = max(spectral_norm(np.abs(matrix.numpy())) for matrix in matrices)
    assert true <= absolute_norm(matrices) <= true * (1 + 1e-6)


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(3, 3), torch.eye(5), torch.diag(torch.tensor([1.0, 2.0, 0.0])), torch.triu(torch.ones(6, 6), 1)],
    ids=["zero", "identity", "decoupled", "nilpotent"],
)
def test_absolute_norm_of_reducible_matrices(matrix: Tensor) -> None:
    true = spectral_norm(matrix.double().numpy())
    assert true <= absolute_norm(matrix) <= true * 1.05 + 1e-300


@pytest.mark.parametrize("value", [nan, inf])
def test_matrices_that_are_not_finite_have_an_infinite_norm(value: float) -> None:
    matrix = noise(4, 4)
    matrix[1, 2] = value
    assert absolute_norm(matrix) == euclidean_norm(matrix) == inf


def test_euclidean_norm_is_never_below_the_exact_one() -> None:
    values = noise(10_000)
    squared = sum(Fraction(value) ** 2 for value in values.tolist())
    assert Fraction(euclidean_norm(values)) ** 2 >= squared


@pytest.mark.parametrize("scale", [1e-130, 1e-155, 1e-162, 1e-290])
def test_norms_of_entries_whose_squares_underflow_are_not_below_the_exact_ones(scale: float) -> None:
    matrices = scale * noise(2, 6, 5).abs()
    squared = [sum(Fraction(value) ** 2 for value in matrix.flatten().tolist()) for matrix in matrices]
    assert Fraction(euclidean_norm(matrices)) ** 2 >= sum(squared)
    assert euclidean_norm(matrices) <= 8 * float(matrices.max())
    # A matrix without negative entries has a norm of at least ||A v|| for the unit vector v of equal entries.
    for matrix in matrices:
        rows = [sum(map(Fraction, row)) for row in matrix.tolist()]
        assert Fraction(absolute_norm(matrix)) ** 2 >= sum(row**2 for row in rows) / 5


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("groups", [1, 2])
def test_absolute_filter_norm_bounds_the_convolution_of_magnitudes(groups: int, mode: str) -> None:
    weight = noise(4, 4 // groups, 3, 5)
    true = spectral_norm(convolution_matrix(weight.abs(), 8, 9, groups, mode))
    assert true <= absolute_filter_norm(weight, groups) <= 1.5 * true


def exact_dot(a: list[float], b: list[float]) -> Fraction:
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))


@pytest.mark.parametrize("order", ["forwards", "backwards", "pairwise", "library"])
def test_sums_of_products_in_any_order_are_covered(order: str) -> None:
    """Large terms cancel, which makes the rounding visible."""
    a, b = noise(257) * 1e8, noise(257, seed=1)
    a[-1] = -float((a[:-1] * b[:-1]).sum() / b[-1])
    terms = (a * b).tolist()
    if order == "library":
        computed = float(a @ b)
    else:
        terms = terms[::-1] if order == "backwards" else terms
        while len(terms) > 1:
            if order == "pairwise":
                terms = [sum(terms[i : i + 2]) for i in range(0, len(terms), 2)]
            else:
                terms = [terms[0] + terms[1], *terms[2:]]
        computed = terms[0]
    step = products(
        Signal((257,), euclidean_norm(b)),
        length=257,
        magnitude=euclidean_norm(a),
        gain=euclidean_norm(a),
        outputs=1,
    )
    error = abs(Fraction(computed) - exact_dot(a.tolist(), b.tolist()))
    assert 0 < error <= Fraction(step.error)


def test_combined_steps_are_one_step_after_another() -> None:
    signal = Signal((3,), norm=2.0, error=0.25)
    first, second = Step(norm=6.0, gain=3.0, error=0.5), Step(norm=7.0, gain=2.0, error=1.0)
    together = signal.after(first.then(second), (5,))
    apart = signal.after(first, (4,)).after(second, (5,))
    assert together.shape == apart.shape == (5,)
    assert together.norm == apart.norm == 7.0
    assert together.error == pytest.approx(2 * (3 * 0.25 + 0.5) + 1, rel=1e-9)
    assert together.error == pytest.approx(apart.error, rel=1e-9)


def test_exact_steps_add_nothing() -> None:
    step = exact(Signal((3,), norm=2.0), gain=0.5)
    assert (step.error, step.gain) == (0.0, 0.5)
    assert step.norm == pytest.approx(1.0)


def test_additions_and_functions_of_entries_round_once_each() -> None:
    signal = Signal((2, 8), norm=3.0)
    step = addition(signal, torch.tensor([3.0, 4.0]), pixels=4)
    assert step.norm == pytest.approx(13.0)
    assert 13 * UNIT <= step.error <= 13.001 * UNIT
    assert addition(signal, None, pixels=4).error == 0
    assert 15 * UNIT <= elementwise(signal, roundings=5).error <= 15.001 * UNIT


def test_underflow_is_counted() -> None:
    step = products(Signal((4,), 0.0), length=4, magnitude=0.0, gain=0.0, outputs=9)
    assert step.error >= 5 * TINY * 3
