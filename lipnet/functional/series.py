"""Polynomials that stand for the exponential on an interval of the imaginary axis."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import factorial, inf, isfinite

from lipnet.functional.gain import polynomial_gain

SERIES = ("chebyshev", "taylor")
_LARGEST_DEGREE = 64
# The interval of a Chebyshev polynomial must not be empty.
_SMALLEST_INTERVAL = 2**-10
# Terms of a Bessel function's series, |s| <= 2 ** 6: what is left out is far below the rounding of a float.
_BESSEL_TERMS = 128


def taylor_coefficients(degree: int) -> tuple[float, ...]:
    """1, 1, 1/2, ..., 1 / degree!, rounded to floats."""
    return tuple(1 / factorial(power) for power in range(degree + 1))


def chebyshev_coefficients(degree: int, norm: float) -> tuple[float, ...]:
    """The coefficients c_0, ..., c_degree of the Jacobi-Anger polynomial, made a contraction.

    exp(i t) = J_0(s) + 2 sum_{n >= 1} i^n J_n(s) T_n(t / s) on |t| <= s, with Bessel functions J_n and Chebyshev
    polynomials T_n; cut after ``degree`` and written as p(z) = sum_k c_k z^k with z = i t. Where it exceeds 1 in
    modulus on the interval, it is divided by its maximum: ||p(J)|| <= 1 for every skew J of norm up to s.

    Args:
        degree: at least 1.
        norm: s >= 0, taken for 2^-10 if it is less.

    Returns:
        The coefficients, lowest power first, as floats for which `polynomial_gain` up to s is at most 1.

    Raises:
        ValueError: for a degree below 1, and a norm that is negative or not finite.

    Example:
        >>> [round(coefficient, 4) for coefficient in chebyshev_coefficients(3, norm=1.4)]
        [0.9702, 0.9791, 0.4183, 0.1455]

    Source: Jacobi-Anger expansion (Abramowitz & Stegun, 9.1.44 to 9.1.47).
    """
    if degree < 1:
        raise ValueError(f"degree must be at least 1, got {degree}")
    _check_norm(norm)
    norm = max(norm, _SMALLEST_INTERVAL)
    raw, gain = _jacobi_anger(degree, norm)
    return _contraction(raw, gain, norm)


def exponential_coefficients(norm: float, tolerance: float, series: str = "chebyshev") -> tuple[float, ...]:
    """The polynomial of lowest degree that is within a tolerance of the exponential.

    Args:
        norm: s, an upper bound on ||J||.
        tolerance: for sup |p(i t) - exp(i t)| over |t| <= s, which bounds ||p(J) - exp(J)||.
        series: ``"chebyshev"`` or ``"taylor"``. Of Taylor's polynomials one that is a contraction on the interval is
            taken where there is one at most three degrees on: 3 is up to 1.73; 4, 8 and 12 are up to 2.82.

    Returns:
        c_0, ..., c_n, lowest power first.

    Raises:
        ValueError: for another series, a tolerance that is not positive, a norm that is not finite, and where the
            degree would exceed 64.

    Example:
        >>> [len(exponential_coefficients(1.4, 1e-5, series)) - 1 for series in ("chebyshev", "taylor")]
        [7, 11]
    """
    if series not in SERIES:
        raise ValueError(f"series must be one of {SERIES}, got {series!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    _check_norm(norm)
    return _cheapest(norm, tolerance, series)


def _check_norm(norm: float) -> None:
    if not isfinite(norm) or norm < 0:
        raise ValueError(f"norm must be finite and not negative, got {norm}")


@lru_cache(maxsize=1024)
def _cheapest(norm: float, tolerance: float, series: str) -> tuple[float, ...]:
    for degree in range(1, _LARGEST_DEGREE + 1):
        if series == "taylor":
            if norm ** (degree + 1) / factorial(degree + 1) <= tolerance:
                return _taylor(degree, norm)
        elif _chebyshev_remainder(degree, norm) <= tolerance:
            raw, gain = _jacobi_anger(degree, max(norm, _SMALLEST_INTERVAL))
            # Divided by its maximum the polynomial is that much farther from the exponential.
            if _chebyshev_remainder(degree, norm) + gain - 1 <= tolerance:
                return _contraction(raw, gain, max(norm, _SMALLEST_INTERVAL))
    raise ValueError(
        f"no polynomial of degree {_LARGEST_DEGREE} is within {tolerance} of the exponential up to a norm of {norm}"
    )


def _taylor(degree: int, norm: float) -> tuple[float, ...]:
    """Taylor's polynomial of this degree, or one of the next three if that is a contraction."""
    for candidate in (taylor_coefficients(degree + more) for more in range(4)):
        gain = polynomial_gain(candidate, norm)
        # Rounded to floats, the coefficients of a contraction give a gain a rounding error above 1.
        if gain <= 1 + 2**-50:
            return _contraction(candidate, gain, norm)
    return taylor_coefficients(degree)


def _chebyshev_remainder(degree: int, norm: float) -> float:
    """At least 2 sum_{n > degree} |J_n(s)|, by |J_n(s)| <= (s / 2)^n / n! and a geometric series."""
    ratio = norm / 2 / (degree + 2)
    first = 2 * (norm / 2) ** (degree + 1) / factorial(degree + 1)
    return first / (1 - ratio) if ratio < 1 else inf


@lru_cache(maxsize=1024)
def _jacobi_anger(degree: int, norm: float) -> tuple[tuple[float, ...], float]:
    """The coefficients before they are made a contraction, and the polynomial's maximum on the interval."""
    s = Fraction(norm)
    polynomial = [Fraction(0)] * (degree + 1)
    for n, chebyshev in enumerate(_imaginary_chebyshev(degree)):
        factor = (1 if n == 0 else 2) * _bessel(n, s)
        for power, coefficient in enumerate(chebyshev):
            polynomial[power] += factor * coefficient / s**power
    coefficients = tuple(float(coefficient) for coefficient in polynomial)
    return coefficients, polynomial_gain(coefficients, norm)


def monic_polynomial(coefficients: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """A factor a and d_0, ..., d_n with d_n = 1 so that sum_k c_k z^k = sum_k d_k (a z)^k, shrunk by 2^-40.

    With the factor in the filter, Horner's rule starts from the maps as they are. The shrinking keeps a contraction one
    when the coefficients are rounded.

    Args:
        coefficients: c_0, ..., c_n with c_n > 0.

    Returns:
        a > 0, and the new coefficients.

    Raises:
        ValueError: for a constant, and for a leading coefficient that is not positive.

    Example:
        >>> factor, coefficients = monic_polynomial((1.0, 1.0, 0.25))
        >>> round(factor, 6), [round(coefficient, 6) for coefficient in coefficients]
        (0.5, [1.0, 2.0, 1.0])
    """
    if len(coefficients) < 2 or not coefficients[-1] > 0:
        raise ValueError(f"a degree of 1 or more and a positive leading coefficient are needed, got {coefficients}")
    factor = (coefficients[-1] * (1 - 2**-40)) ** (1 / (len(coefficients) - 1))
    lower = (c * (1 - 2**-40) / factor**power for power, c in enumerate(coefficients[:-1]))
    return factor, (*lower, 1.0)


def _imaginary_chebyshev(degree: int) -> list[list[int]]:
    """i^n T_n(-i w), n = 0, ..., degree, as polynomials in w: R_0 = 1, R_1 = w, R_{n+1} = 2 w R_n + R_{n-1}."""
    polynomials = [[1], [0, 1]]
    while len(polynomials) <= degree:
        following = [0, *(2 * coefficient for coefficient in polynomials[-1])]
        for power, coefficient in enumerate(polynomials[-2]):
            following[power] += coefficient
        polynomials.append(following)
    return polynomials[: degree + 1]


def _bessel(n: int, s: Fraction) -> Fraction:
    """J_n(s) by its power series, rounded to 200 binary places."""
    half = Fraction(round(s / 2 * 2**200), 2**200)
    total, term = Fraction(0), half**n / factorial(n)
    for m in range(_BESSEL_TERMS):
        total += term
        term = Fraction(round(-term * half**2 / ((m + 1) * (m + 1 + n)) * 2**200), 2**200)
    return total


def _contraction(coefficients: tuple[float, ...], gain: float, norm: float) -> tuple[float, ...]:
    """The coefficients divided by the polynomial's maximum, until the floats' own polynomial stays within 1."""
    margin = 2**-50
    while gain > 1:
        coefficients = tuple(coefficient / gain * (1 - margin) for coefficient in coefficients)
        gain = polynomial_gain(coefficients, norm)
        # Where large terms cancel, the rounding of the coefficients moves the maximum by more than a small margin.
        margin *= 2
    return coefficients
