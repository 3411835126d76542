"""The gain of a polynomial against its exact values, dense samples and the norms of skew matrices."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from lipnet.functional import polynomial_gain, taylor_coefficients
from tests.oracles import spectral_norm, truncated_exponential

Polynomial = Sequence[Fraction | float]
NORMS = [0.0, 1e-3, 0.3, 1.0, 1.7, 2.1, 2.8, 3.4, 4.5, 6.0]
# Up to which norm the Taylor polynomial of a degree is a contraction (degree, norm).
CONTRACTIONS = [(3, 1.732), (4, 2.828), (8, 3.395), (12, 3.379)]


def random_polynomial(seed: int) -> Polynomial:
    source = random.Random(seed)
    return tuple(Fraction(source.randint(-50, 50), source.randint(1, 20)) for _ in range(source.randint(1, 9)))


def squared_modulus(coefficients: Polynomial, t: Fraction) -> Fraction:
    """|p(i t)|^2 exactly, from the real and the imaginary part."""
    real, imaginary = Fraction(0), Fraction(0)
    for degree, coefficient in enumerate(coefficients):
        term = Fraction(coefficient) * t**degree * (1 if degree % 4 < 2 else -1)
        if degree % 2:
            imaginary += term
        else:
            real += term
    return real**2 + imaginary**2


def modulus(coefficients: Polynomial, t: np.ndarray) -> np.ndarray:
    return np.abs(np.polynomial.polynomial.polyval(1j * t, [float(a) for a in coefficients]))


def sampled_maximum(coefficients: Polynomial, norm: float) -> tuple[float, float]:
    """Return the t in [0, norm] at which |p(i t)| is largest, and the value, by dense samples refined twice."""
    low, high = 0.0, norm
    for _ in range(3):
        t = np.linspace(low, high, 2001)
        best = float(t[np.argmax(modulus(coefficients, t))])
        low, high = max(0.0, best - norm / 1000), min(norm, best + norm / 1000)
    return best, float(modulus(coefficients, np.array([best]))[0])


def assert_gain_is_the_maximum(coefficients: Polynomial, norm: float) -> None:
    gain = polynomial_gain(coefficients, norm)
    place, largest = sampled_maximum(coefficients, norm)
    for t in [Fraction(place), Fraction(norm), *(Fraction(norm) * k / 20 for k in range(20))]:
        assert Fraction(gain) ** 2 >= squared_modulus(coefficients, t)
    # The norm is rounded up by at most 2^-20 before the maximum is taken.
    assert gain <= max(largest, sampled_maximum(coefficients, norm + 2**-20)[1]) * (1 + 1e-9)


@pytest.mark.parametrize("terms", range(1, 15))
def test_gain_of_taylor_polynomials(terms: int) -> None:
    for norm in NORMS:
        assert_gain_is_the_maximum(taylor_coefficients(terms), norm)


@pytest.mark.parametrize("seed", range(12))
def test_gain_of_random_polynomials(seed: int) -> None:
    for norm in NORMS:
        assert_gain_is_the_maximum(random_polynomial(seed), norm)


def test_gain_finds_a_maximum_in_the_interior() -> None:
    # p(z) = z + z^3 / 3 has |p(i t)| = t - t^3 / 3 up to t = sqrt(3): it rises to 2 / 3 at t = 1 and falls again.
    cubic = (Fraction(0), Fraction(1), Fraction(0), Fraction(1, 3))
    assert polynomial_gain(cubic, 1.5) == pytest.approx(2 / 3, rel=1e-12)
    assert Fraction(polynomial_gain(cubic, 1.5)) >= Fraction(2, 3)


@pytest.mark.parametrize(("terms", "limit"), CONTRACTIONS)
def test_contractions_have_gain_one_without_slack(terms: int, limit: float) -> None:
    exactly = [Fraction(1, math.factorial(degree)) for degree in range(terms + 1)]
    for norm in (0.0, 0.1, 1.0, limit / 2, limit):
        assert polynomial_gain(exactly, norm) == 1.0
        # Rounded to floats, a coefficient can be too large.
        assert polynomial_gain(taylor_coefficients(terms), norm) <= math.nextafter(1, 2)
    assert polynomial_gain(exactly, limit + 2e-3) > 1.0 + 1e-6


@pytest.mark.parametrize("terms", [1, 2, 5, 6, 9, 10, 13, 14])
def test_other_degrees_are_no_contractions(terms: int) -> None:
    for norm in (0.5, 1.0, 2.1):
        assert polynomial_gain(taylor_coefficients(terms), norm) > 1.0


@pytest.mark.parametrize(("terms", "gain"), [(3, 1.327), (5, 1.0047), (6, 1.034), (8, 1.0), (10, 1.0001), (12, 1.0)])
def test_gains_at_the_norm_of_the_published_scaling(terms: int, gain: float) -> None:
    assert polynomial_gain(taylor_coefficients(terms), 2.1) == pytest.approx(gain, abs=5e-4 if terms < 10 else 5e-5)


@pytest.mark.parametrize("terms", [3, 5, 12])
def test_gain_is_attained_by_a_skew_matrix_and_exceeded_by_none(terms: int) -> None:
    source = np.random.default_rng(0)
    for norm in (1.0, 2.1, 4.0):
        gain = polynomial_gain(taylor_coefficients(terms), norm)
        for _ in range(20):
            square = source.standard_normal((6, 6))
            skew = (square - square.T) * norm / spectral_norm(square - square.T)
            assert spectral_norm(truncated_exponential(skew, terms)) <= gain + 1e-12
        place, _ = sampled_maximum(taylor_coefficients(terms), norm)
        rotation = np.array([[0.0, place], [-place, 0.0]])
        assert spectral_norm(truncated_exponential(rotation, terms)) >= gain * (1 - 1e-5)


def test_gain_grows_with_the_norm() -> None:
    gains = [polynomial_gain(taylor_coefficients(5), norm) for norm in np.linspace(0, 6, 61)]
    assert gains[0] == 1.0
    # Each gain may lie above the true maximum by 1e-12.
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(gains))
    assert gains[-1] > 40


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_norms_that_are_not_finite_give_infinity(norm: float) -> None:
    assert polynomial_gain(taylor_coefficients(12), norm) == math.inf


def test_a_gain_beyond_the_largest_float_is_infinite() -> None:
    assert polynomial_gain(taylor_coefficients(12), 1e300) == math.inf
    gain = polynomial_gain(taylor_coefficients(12), 1e20)
    assert gain == pytest.approx(1e240 / math.factorial(12), rel=1e-9)
