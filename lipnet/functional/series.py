"""Polynomials that approximate the exponential on an interval of the imaginary axis.

Their coefficients come from exact rational arithmetic, so that every machine computes the same ones for the same norm
(see docs/decisions.md).
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import factorial, inf, isfinite

from lipnet.functional.gain import polynomial_gain

SERIES = ("chebyshev", "taylor")
LARGEST_DEGREE = 64
"""Degree beyond any use: up to a norm of 7, Taylor's polynomial of degree 64 is within 1e-36 of the exponential."""
# The Chebyshev expansion divides by the length s of the interval.
_SMALLEST_INTERVAL = 2**-10
# Terms of a Bessel function's power series. Up to the largest interval, the others are far below a float's rounding.
_LARGEST_INTERVAL = 2**6
_BESSEL_TERMS = 128
_BESSEL_BITS = 256


def taylor_coefficients(degree: int) -> tuple[float, ...]:
    """Return 1, 1, 1/2, ..., 1 / degree!, rounded to floats."""
    return tuple(1 / factorial(power) for power in range(degree + 1))


def chebyshev_coefficients(degree: int, norm: float) -> tuple[float, ...]:
    """Return the coefficients of the truncated Jacobi-Anger expansion, scaled down to a contraction if needed.

    exp(i t) = J_0(s) + 2 sum_{n >= 1} i^n J_n(s) T_n(t / s) on |t| <= s, with Bessel functions J_n and Chebyshev
    polynomials T_n. The sum is cut after ``degree`` and written as p(z) = sum_k c_k z^k with z = i t. If its modulus
    exceeds 1 on the interval, p is divided by the maximum, so that ||p(J)|| <= 1 for every skew J with ||J|| <= s.

    Args:
        degree: at least 1.
        norm: s from 0 to 64; values below 2^-10 count as 2^-10.

    Returns:
        c_0, ..., c_degree, lowest power first, as floats for which `polynomial_gain` up to s is at most 1.

    Raises:
        ValueError: for a degree below 1, and a norm that is negative, above 64 or not finite.

    Example:
        >>> [round(coefficient, 4) for coefficient in chebyshev_coefficients(3, norm=1.4)]
        [0.9702, 0.9791, 0.4183, 0.1455]

    Source: Jacobi-Anger expansion (Abramowitz & Stegun, 9.1.44 to 9.1.47).
    """
    if degree < 1:
        raise ValueError(f"degree must be at least 1, got {degree}")
    _check_norm(norm)
    if norm > _LARGEST_INTERVAL:
        raise ValueError(f"norm must be at most {_LARGEST_INTERVAL}, got {norm}")
    norm = max(norm, _SMALLEST_INTERVAL)
    return _contraction(*_jacobi_anger(degree, norm), norm)


@lru_cache(maxsize=1024)
def exponential_coefficients(norm: float, tolerance: float, series: str = "chebyshev") -> tuple[float, ...]:
    """Return the coefficients of the polynomial of lowest degree that is within a tolerance of the exponential.

    Args:
        norm: s, an upper bound on ||J||.
        tolerance: bound on sup |p(i t) - exp(i t)| over |t| <= s, and so on ||p(J) - exp(J)||.
        series: ``"chebyshev"`` or ``"taylor"``. Taylor's degree rises by up to three if that gives a contraction on the
            interval: degree 3 is one up to s = 1.73; degrees 4, 8 and 12 are up to s = 2.82.

    Returns:
        c_0, ..., c_n, lowest power first.

    Raises:
        ValueError: for an unknown series, a tolerance that is not positive, a norm that is negative or not finite, and
            if the degree would exceed 64.

    Example:
        >>> [len(exponential_coefficients(1.4, 1e-5, series)) - 1 for series in ("chebyshev", "taylor")]
        [7, 11]
    """
    if series not in SERIES:
        raise ValueError(f"series must be one of {SERIES}, got {series!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    _check_norm(norm)
    interval = max(norm, _SMALLEST_INTERVAL)
    for degree in range(1, LARGEST_DEGREE + 1):
        if series == "taylor":
            if norm ** (degree + 1) / factorial(degree + 1) <= tolerance:
                return _taylor(degree, norm)
        elif (remainder := _chebyshev_remainder(degree, norm)) <= tolerance:
            raw, gain = _jacobi_anger(degree, interval)
            # Dividing by the maximum moves the polynomial away from the exponential by up to gain - 1.
            if remainder + gain - 1 <= tolerance:
                return _contraction(raw, gain, interval)
    raise ValueError(
        f"no polynomial of degree {LARGEST_DEGREE} is within {tolerance} of the exponential up to a norm of {norm}"
    )


def _check_norm(norm: float) -> None:
    if not isfinite(norm) or norm < 0:
        raise ValueError(f"norm must be finite and not negative, got {norm}")


def _taylor(degree: int, norm: float) -> tuple[float, ...]:
    """Return the first contraction among Taylor's polynomials of this and the next three degrees, else this degree."""
    for candidate in (taylor_coefficients(degree + more) for more in range(4)):
        gain = polynomial_gain(candidate, norm)
        # Rounding the coefficients of a contraction to floats can raise its gain slightly above 1.
        if gain <= 1 + 2**-50:
            return _contraction(candidate, gain, norm)
    return taylor_coefficients(degree)


def _chebyshev_remainder(degree: int, norm: float) -> float:
    """Bound 2 sum_{n > degree} |J_n(s)|, by |J_n(s)| <= (s / 2)^n / n! and a geometric series."""
    ratio = norm / 2 / (degree + 2)
    first = 2 * (norm / 2) ** (degree + 1) / factorial(degree + 1)
    return first / (1 - ratio) if ratio < 1 else inf


@lru_cache(maxsize=1024)
def _jacobi_anger(degree: int, norm: float) -> tuple[tuple[float, ...], float]:
    """Return the coefficients of the truncated expansion, and its maximum modulus on the interval."""
    s = Fraction(norm)
    polynomial = [Fraction(0)] * (degree + 1)
    # R_n(w) = i^n T_n(-i w): R_0 = 1, R_1 = w, R_{n+1} = 2 w R_n + R_{n-1}.
    current, following = [1], [0, 1]
    for n in range(degree + 1):
        factor = (1 if n == 0 else 2) * _bessel(n, s)
        for power, coefficient in enumerate(current):
            polynomial[power] += factor * coefficient / s**power
        after = [0, *(2 * coefficient for coefficient in following)]
        for power, coefficient in enumerate(current):
            after[power] += coefficient
        current, following = following, after
    coefficients = tuple(map(float, polynomial))
    return coefficients, polynomial_gain(coefficients, norm)


def _bessel(n: int, s: Fraction) -> Fraction:
    """Compute the Bessel function J_n(s) = (s/2)^n / n! sum_m (-s^2/4)^m n! / (m! (m + n)!).

    The sum is a fixed-point number, an integer times 2^-256: fractions would be 30 times slower.
    """
    square = round(s * s / 4 * 2**_BESSEL_BITS)
    total = term = 1 << _BESSEL_BITS
    for m in range(1, _BESSEL_TERMS):
        term = -term * square // (m * (m + n) << _BESSEL_BITS)
        total += term
    return (s / 2) ** n / factorial(n) * Fraction(total, 1 << _BESSEL_BITS)


def _contraction(coefficients: tuple[float, ...], gain: float, norm: float) -> tuple[float, ...]:
    """Divide the coefficients by the gain, until the gain with rounded coefficients is at most 1."""
    margin = 2**-50
    while gain > 1:
        coefficients = tuple(coefficient / gain * (1 - margin) for coefficient in coefficients)
        gain = polynomial_gain(coefficients, norm)
        # Where large terms cancel, rounding the coefficients changes the gain by more than a small margin.
        margin *= 2
    return coefficients


def monic_polynomial(coefficients: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """Write a polynomial with the leading coefficient 1: sum_k c_k z^k = sum_k d_k (a z)^k with d_n = 1.

    The filter absorbs the factor a, so that Horner's rule starts from the input itself. The new polynomial is smaller
    by a share of 2^-40, so that a contraction remains one when the coefficients are rounded.

    Args:
        coefficients: c_0, ..., c_n with c_n > 0.

    Returns:
        a > 0, and d_0, ..., d_n.

    Raises:
        ValueError: for a constant, and for a leading coefficient that is not positive.

    Example:
        >>> factor, coefficients = monic_polynomial((1.0, 1.0, 0.25))
        >>> round(factor, 6), [round(coefficient, 6) for coefficient in coefficients]
        (0.5, [1.0, 2.0, 1.0])
    """
    if len(coefficients) < 2 or not coefficients[-1] > 0:
        raise ValueError(f"coefficients must be at least two, the last one positive, got {coefficients}")
    factor = (coefficients[-1] * (1 - 2**-40)) ** (1 / (len(coefficients) - 1))
    lower = (c * (1 - 2**-40) / factor**power for power, c in enumerate(coefficients[:-1]))
    return factor, (*lower, 1.0)
