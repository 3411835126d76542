"""Polynomial approximations of the exponential against Bessel functions, exact values and dense samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import scipy.special

from lipnet.functional import polynomial_gain
from lipnet.functional.series import (
    chebyshev_coefficients,
    exponential_coefficients,
    monic_polynomial,
    taylor_coefficients,
)

NORMS = [0.0, 1e-6, 0.1, 0.7, 1.4, 2.1, 4.0]
TOLERANCES = [0.3, 0.05, 1e-3, 1e-5, 1e-9]


def distance_from_the_exponential(coefficients: Sequence[float], norm: float) -> float:
    """sup |p(i t) - exp(i t)| over dense samples of |t| <= norm."""
    t = np.linspace(-norm, norm, 4001)
    return float(np.abs(np.polynomial.polynomial.polyval(1j * t, coefficients) - np.exp(1j * t)).max())


def largest_modulus(coefficients: Sequence[float], norm: float) -> float:
    return float(np.abs(np.polynomial.polynomial.polyval(1j * np.linspace(0, norm, 4001), coefficients)).max())


def jacobi_anger(degree: int, norm: float, t: np.ndarray) -> np.ndarray:
    """J_0(s) + 2 sum_{n = 1}^degree i^n J_n(s) T_n(t / s), from SciPy's Bessel functions and T_n = cos(n arccos)."""
    terms = [
        (1 if n == 0 else 2) * 1j**n * scipy.special.jv(n, norm) * np.cos(n * np.arccos(t / norm))
        for n in range(degree + 1)
    ]
    return np.asarray(np.sum(terms, axis=0))


def test_taylor_coefficients_are_the_nearest_floats() -> None:
    assert taylor_coefficients(4) == (1, 1, 0.5, 1 / 6, 1 / 24)
    for degree, coefficient in enumerate(taylor_coefficients(20)):
        exact = Fraction(1, math.factorial(degree))
        assert abs(Fraction(coefficient) - exact) <= Fraction(math.ulp(coefficient)) / 2


@pytest.mark.parametrize("norm", [1e-2, 0.5, 1.4, 2.1, 5.0, 64.0])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5, 8, 13])
def test_chebyshev_polynomials_are_jacobi_anger_over_its_maximum(degree: int, norm: float) -> None:
    t = np.linspace(-norm, norm, 2001)
    expected = jacobi_anger(degree, norm, t)
    expected = expected / max(1.0, np.abs(expected).max())
    values = np.polynomial.polynomial.polyval(1j * t, chebyshev_coefficients(degree, norm))
    # The maximum over samples is a little below the maximum over the interval.
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6 * max(1, norm))


# Jacobi-Anger's own distances at 2.1, as tabulated for these degrees, to which its maximum minus 1 is added at most.
@pytest.mark.parametrize(
    ("degree", "distance", "excess"), [(3, 8.4e-2, 0.027), (4, 1.8e-2, 0.018), (5, 3.2e-3, 0.002), (8, 7.7e-6, 1e-5)]
)
def test_distances_at_the_norm_of_the_published_scaling(degree: int, distance: float, excess: float) -> None:
    t = np.linspace(-2.1, 2.1, 4001)
    assert np.abs(jacobi_anger(degree, 2.1, t) - np.exp(1j * t)).max() == pytest.approx(distance, rel=0.02)
    assert distance_from_the_exponential(chebyshev_coefficients(degree, 2.1), 2.1) <= 1.05 * (distance + excess)


@pytest.mark.parametrize("norm", [0.0, 1e-9, 1e-3, 0.3, 1.4, 2.1, 7.0, 30.0])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7, 12, 24])
def test_chebyshev_polynomials_are_contractions_on_the_interval(degree: int, norm: float) -> None:
    coefficients = chebyshev_coefficients(degree, norm)
    assert len(coefficients) == degree + 1
    assert polynomial_gain(coefficients, norm) <= 1
    assert largest_modulus(coefficients, norm) <= 1 + 1e-12


def test_chebyshev_beats_taylor() -> None:
    for degree in (3, 4, 5, 8):
        chebyshev = distance_from_the_exponential(chebyshev_coefficients(degree, 2.1), 2.1)
        assert chebyshev < 0.3 * distance_from_the_exponential(taylor_coefficients(degree), 2.1)


@pytest.mark.parametrize("series", ["chebyshev", "taylor"])
@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("norm", NORMS)
def test_the_tolerance_is_kept(norm: float, tolerance: float, series: str) -> None:
    coefficients = exponential_coefficients(norm, tolerance, series)
    # Samples in float64 are themselves off by rounding.
    assert distance_from_the_exponential(coefficients, norm) <= tolerance + 1e-14
    if series == "chebyshev":
        assert polynomial_gain(coefficients, norm) <= 1


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("norm", [0.3, 1.4, 2.1, 4.0])
def test_no_lower_degree_would_do(norm: float, tolerance: float) -> None:
    chosen = len(exponential_coefficients(norm, tolerance)) - 1
    t = np.linspace(-norm, norm, 4001)
    for degree in range(1, chosen - 1):
        assert distance_from_the_exponential(chebyshev_coefficients(degree, norm), norm) > tolerance
    # The bound on the distance is no more than three times the distance: one degree gains more than that.
    if chosen > 1:
        lower = jacobi_anger(chosen - 1, norm, t)
        assert 3 * (np.abs(lower - np.exp(1j * t)).max() + np.abs(lower).max() - 1) > tolerance


@pytest.mark.parametrize(
    ("norm", "tolerance", "degree"), [(0.5, 0.05, 3), (1.4, 0.05, 4), (2.1, 0.05, 8), (2.1, 1e-3, 12), (2.1, 1e-5, 12)]
)
def test_taylor_prefers_degrees_that_are_contractions(norm: float, tolerance: float, degree: int) -> None:
    coefficients = exponential_coefficients(norm, tolerance, "taylor")
    assert len(coefficients) == degree + 1
    assert coefficients == pytest.approx(taylor_coefficients(degree), rel=1e-14)
    assert polynomial_gain(coefficients, norm) <= 1


def test_taylor_takes_the_lowest_degree_where_no_contraction_is_near() -> None:
    coefficients = exponential_coefficients(4.5, 0.05, "taylor")
    assert coefficients == taylor_coefficients(len(coefficients) - 1)
    assert polynomial_gain(coefficients, 4.5) > 1
    assert 4.5 ** len(coefficients) / math.factorial(len(coefficients)) <= 0.05
    assert 4.5 ** (len(coefficients) - 1) / math.factorial(len(coefficients) - 1) > 0.05


def test_degrees_of_the_layers_defaults() -> None:
    assert len(exponential_coefficients(1.5, 0.05)) - 1 == 3
    assert len(exponential_coefficients(1.4, 1e-5)) - 1 == 7


@pytest.mark.parametrize(
    "coefficients",
    [
        taylor_coefficients(5),
        taylor_coefficients(12),
        chebyshev_coefficients(3, 1.5),
        chebyshev_coefficients(10, 2.1),
        (0.0, -3.0, 0.0, 1e-9),
        (2.0, 5.0),
        (1.0, 1.0, 64.0),
    ],
)
def test_monic_polynomials_are_the_same_polynomial(coefficients: tuple[float, ...]) -> None:
    factor, monic = monic_polynomial(coefficients)
    assert factor > 0
    assert len(monic) == len(coefficients)
    assert monic[-1] == 1
    z = np.linspace(-2.1, 2.1, 101) * 1j
    values = np.polynomial.polynomial.polyval(factor * z, monic)
    expected = np.polynomial.polynomial.polyval(z, coefficients)
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-12 * np.abs(expected).max())


@pytest.mark.parametrize("norm", [0.1, 1.4, 2.1, 2.8])
@pytest.mark.parametrize("coefficients", [taylor_coefficients(4), taylor_coefficients(8), taylor_coefficients(12)])
def test_monic_polynomials_of_contractions_are_contractions(coefficients: tuple[float, ...], norm: float) -> None:
    factor, monic = monic_polynomial(coefficients)
    assert polynomial_gain(monic, norm * factor) <= 1


@pytest.mark.parametrize("degree", range(1, 13))
def test_monic_polynomials_of_chebyshev_polynomials_are_contractions(degree: int) -> None:
    for norm in (1e-6, 0.3, 1.4, 1.9):
        factor, monic = monic_polynomial(chebyshev_coefficients(degree, norm))
        assert largest_modulus(monic, norm * factor) <= 1


def test_intervals_so_long_that_large_terms_cancel() -> None:
    # Terms of up to exp(9.5) leave a rounding error above the margin that a maximum of 1 is first divided by.
    coefficients = exponential_coefficients(9.5, 1e-5)
    assert polynomial_gain(coefficients, 9.5) <= 1
    assert polynomial_gain(coefficients, 9.5) >= 1 - 1e-5


@pytest.mark.parametrize("coefficients", [(), (1.0,), (1.0, 0.0), (1.0, 2.0, -1.0), (1.0, math.nan)])
def test_polynomials_without_a_positive_leading_coefficient_are_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"coefficients must be at least two, the last one positive, got \("):
        monic_polynomial(coefficients)


@pytest.mark.parametrize("norm", [-1.0, math.inf, -math.inf, math.nan])
def test_norms_that_make_no_sense_are_refused(norm: float) -> None:
    with pytest.raises(ValueError, match=f"norm must be finite and not negative, got {norm}"):
        chebyshev_coefficients(3, norm)
    for series in ("chebyshev", "taylor"):
        with pytest.raises(ValueError, match=f"norm must be finite and not negative, got {norm}"):
            exponential_coefficients(norm, 0.05, series)


def test_norms_beyond_the_bessel_series_are_refused() -> None:
    with pytest.raises(ValueError, match="norm must be at most 64, got 65"):
        chebyshev_coefficients(4, 65.0)


@pytest.mark.parametrize("tolerance", [0.0, -0.1, math.nan])
def test_tolerances_that_are_not_positive_are_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance must be positive, got {tolerance}"):
        exponential_coefficients(1.4, tolerance)


@pytest.mark.parametrize("degree", [0, -1])
def test_constants_are_refused(degree: int) -> None:
    with pytest.raises(ValueError, match=f"degree must be at least 1, got {degree}"):
        chebyshev_coefficients(degree, 1.0)


def test_another_series_is_refused() -> None:
    with pytest.raises(ValueError, match=r"series must be one of \('chebyshev', 'taylor'\), got 'legendre'"):
        exponential_coefficients(1.4, 0.05, "legendre")


@pytest.mark.parametrize("series", ["chebyshev", "taylor"])
def test_a_degree_beyond_64_is_refused(series: str) -> None:
    with pytest.raises(
        ValueError, match=r"no polynomial of degree 64 is within 0\.05 of the exponential up to a norm of"
    ):
        exponential_coefficients(1e3, 0.05, series)
