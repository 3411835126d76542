"""Radii from a bound for each pair of logits, against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional.margins import certified_radius
from lipnet.functional.pairwise import pairwise_certified_radius, row_distances, scale_up


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_radius(scores: list[float], bounds: list[list[float]]) -> Fraction:
    """min over j of (f_y - f_j) / D[y, j], as a rational number."""
    y = scores.index(max(scores))
    others = [j for j in range(len(scores)) if j != y]
    return min((Fraction(scores[y]) - Fraction(scores[j])) / Fraction(bounds[y][j]) for j in others)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_radius_is_the_rational_one_rounded_down(dtype: torch.dtype, scale: float) -> None:
    logits, bounds = (scale * noise(200, 7)).to(dtype), noise(7, 7, seed=1).abs() + 0.01
    prediction, radius = pairwise_certified_radius(logits, bounds)
    assert prediction.equal(logits.argmax(dim=1))
    for scores, value in zip(logits.double().tolist(), radius.tolist(), strict=True):
        exact = exact_radius(scores, bounds.tolist())
        assert Fraction(value) <= exact
        assert value == pytest.approx(float(exact), rel=1e-15)


def test_the_runner_up_may_be_further_than_another_class() -> None:
    bounds = torch.tensor([[1, 1, 10], [1, 1, 1], [10, 1, 1]], dtype=torch.float64)
    _, radius = pairwise_certified_radius(torch.tensor([[3.0, 2.0, 1.0]]), bounds)
    assert radius.item() == pytest.approx(0.2)


def test_equal_bounds_are_one_bound() -> None:
    logits = noise(100, 5)
    bounds = torch.full((5, 5), np.nextafter(np.sqrt(2) * 3.0, inf), dtype=torch.float64)
    for own, shared in zip(pairwise_certified_radius(logits, bounds), certified_radius(logits, 3.0), strict=True):
        assert own.equal(shared)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_logits_that_are_not_finite_and_ties_certify_nothing(value: float) -> None:
    logits = torch.tensor([[1.0, value, 0.0], [2.0, 2.0, 0.0], [2.0, 1.0, 0.0]])
    radius = pairwise_certified_radius(logits, torch.ones(3, 3, dtype=torch.float64))[1]
    assert radius[:2].tolist() == [0.0, 0.0]
    assert radius[2] > 0.99


def test_an_infinite_bound_certifies_nothing_where_it_counts() -> None:
    bounds = torch.ones(3, 3, dtype=torch.float64)
    bounds[0, 2] = bounds[2, 0] = inf
    radius = pairwise_certified_radius(torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), bounds)[1]
    assert radius[0] == 0
    assert radius[1] == pytest.approx(2.0)


def test_a_radius_beyond_the_largest_number_is_that_number() -> None:
    tiny = torch.full((2, 2), 1e-300, dtype=torch.float64)
    radius = pairwise_certified_radius(torch.tensor([[1e30, 0.0]], dtype=torch.float64), tiny)[1]
    assert radius.item() == torch.finfo(torch.float64).max


@pytest.mark.parametrize(
    ("logits", "bounds", "message"),
    [
        (torch.zeros(3), torch.ones(3, 3).double(), r"logits .* \(B, C\) with C >= 2, got shape \(3,\)"),
        (torch.zeros(2, 1), torch.ones(1, 1).double(), r"C >= 2, got shape \(2, 1\)"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.ones(3, 3).double(), "dtype torch.int64"),
        (torch.zeros(2, 3), torch.ones(4, 4).double(), r"bounds .* \(3, 3\), .* got shape \(4, 4\)"),
        (torch.zeros(2, 3), torch.ones(3, 3), "bounds must be float64 .* dtype torch.float32"),
        (torch.zeros(2, 3), torch.zeros(3, 3).double(), r"bounds of different logits must be positive .* got 0\.0"),
        (torch.zeros(2, 3), torch.full((3, 3), nan).double(), "bounds of different logits must be positive .* got nan"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(logits: Tensor, bounds: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairwise_certified_radius(logits, bounds)


def test_the_diagonal_is_not_read() -> None:
    bounds = torch.ones(2, 2, dtype=torch.float64).fill_diagonal_(0.0)
    assert pairwise_certified_radius(torch.tensor([[1.0, 0.0]]), bounds)[1].item() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distances_are_the_exact_ones_rounded_up(dtype: torch.dtype, scale: float) -> None:
    rows = (scale * noise(6, 40)).to(dtype)
    distances = row_distances(rows)
    exact = [[Fraction(value) for value in row] for row in rows.double().tolist()]
    for i in range(6):
        for j in range(6):
            squared = sum((a - b) ** 2 for a, b in zip(exact[i], exact[j], strict=True))
            assert Fraction(distances[i, j].item()) ** 2 >= squared
            assert distances[i, j].item() == pytest.approx(float(squared) ** 0.5, rel=2e-10, abs=1e-149)


def test_distances_below_the_smallest_squares_are_not_zero() -> None:
    rows = torch.tensor([[1.0, 1e-200], [1.0, 2e-200], [1.0, 1e-200]], dtype=torch.float64)
    assert row_distances(rows).min() >= 1e-200


@pytest.mark.parametrize("value", [nan, inf])
def test_a_row_that_is_not_finite_is_infinitely_far(value: float) -> None:
    rows = torch.eye(3)
    rows[1, 1] = value
    distances = row_distances(rows)
    assert distances[1].tolist() == distances[:, 1].tolist() == [inf] * 3
    assert distances[0, 2].item() == pytest.approx(2**0.5)


def test_scaling_rounds_up() -> None:
    bounds, factor = noise(50).abs(), 0.1
    scaled = scale_up(bounds, factor)
    products = [Fraction(value) * Fraction(factor) for value in bounds.tolist()]
    assert all(Fraction(value) >= product for value, product in zip(scaled.tolist(), products, strict=True))
    assert scaled.tolist() == pytest.approx(list(map(float, products)), rel=1e-15)
    assert scale_up(torch.tensor([1.0, inf], dtype=torch.float64), inf).tolist() == [inf, inf]
    assert scale_up(torch.tensor([0.0, inf], dtype=torch.float64), 0.0)[1].item() == inf


def test_the_error_of_each_pair_is_taken_off_twice() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    bounds = torch.ones(3, 3, dtype=torch.float64)
    errors = torch.zeros(3, 3, dtype=torch.float64)
    assert pairwise_certified_radius(logits, bounds, errors)[1].item() == pytest.approx(1.0)
    errors[0, 1] = 0.125
    assert pairwise_certified_radius(logits, bounds, errors)[1].item() == pytest.approx(0.75)
    errors[0, 2] = 0.75
    assert pairwise_certified_radius(logits, bounds, errors)[1].item() == pytest.approx(0.5)
    errors[0, 2] = 1.0
    assert pairwise_certified_radius(logits, bounds, errors)[1].item() == 0.0
    errors[0, 2] = inf
    assert pairwise_certified_radius(logits, bounds, errors)[1].item() == 0.0


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.float64), r"errors must be float64 of shape \(3, 3\).*\(2, 2\)"),
        (torch.zeros(3, 3), r"errors must be float64.*torch\.float32"),
        (torch.full((3, 3), -1.0, dtype=torch.float64), r"at least 0 .* got -1\.0"),
        (torch.full((3, 3), nan, dtype=torch.float64), "at least 0 .* got nan"),
    ],
)
def test_errors_that_do_not_fit_are_refused(errors: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairwise_certified_radius(torch.zeros(1, 3), torch.ones(3, 3, dtype=torch.float64), errors)
