"""The truncated exponential of a convolution."""

from fractions import Fraction
from math import factorial

from torch import Tensor

from lipnet.functional.polynomial import convolution_polynomial


def taylor_exponential(x: Tensor, weight: Tensor, terms: int, groups: int = 1, padding_mode: str = "zeros") -> Tensor:
    """p(J) x with p(z) = sum_{k <= terms} z^k / k!, where J is the 'same' convolution with ``weight``.

    Args:
        x: maps (B, c, H, W).
        weight: filter (c, c/groups, kh, kw); skew for p(J) to be close to orthogonal.
        terms: degree of the polynomial, at least 1.
        groups: number of groups of the convolution; each has its own exponential.
        padding_mode: ``"zeros"`` or ``"circular"``.

    Returns:
        Maps (B, c, H, W), differentiable once (see `convolution_polynomial`).

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021.
    """
    coefficients = [float(coefficient) for coefficient in taylor_coefficients(terms)]
    return convolution_polynomial(x, weight, coefficients, groups, padding_mode)


def taylor_coefficients(terms: int) -> tuple[Fraction, ...]:
    """1, 1, 1/2, ..., 1/terms!: the coefficients of `taylor_exponential`, exactly."""
    return tuple(Fraction(1, factorial(degree)) for degree in range(terms + 1))
