"""Polynomials of a convolution by plain sums of products. Certificates use them, because their rounding has a bound."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from lipnet.functional.convolution import jacobian_matrices, same_convolution
from lipnet.functional.exponential import apply_dense
from lipnet.functional.gain import polynomial_gain
from lipnet.functional.rounding_error import UNIT, accumulated, underflow, up

# On maps of at most this many pixels, one matrix for all pixels is faster than a convolution of each image.
_MAX_PIXELS_OF_A_MATRIX = 4


def explicit_polynomial(
    x: Tensor,
    weight: Tensor,
    coefficients: Sequence[float],
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    channels: int | None = None,
    matrices: Tensor | None = None,
) -> Tensor:
    """Return p(J) x by Horner's rule, where every entry of J x is a plain sum of products.

    It is the same function as `skew_polynomial`, but slower. `horner_error` bounds its distance from the exact value.

    Args:
        x, weight, coefficients, groups, padding_mode, channels: as in `skew_polynomial`.
        matrices: result of `explicit_matrices` for maps of this size; None to convolve.

    Returns:
        Feature maps (B, channels or c, H, W), differentiable.
    """

    def image(maps: Tensor, kernel: Tensor) -> Tensor:
        if matrices is not None:
            return apply_dense(maps, matrices)
        return same_convolution(maps, kernel, groups, padding_mode)

    lowest, *lower, leading = coefficients
    state = x if leading == 1 else x * leading
    for coefficient in reversed(lower):
        state = image(state, weight).add_(x, alpha=coefficient)
    # The last product only needs the wanted channels.
    last = image(state, weight[:channels] if groups == 1 else weight)[:, :channels]
    return last.add(x[:, :channels], alpha=lowest)


def explicit_matrices(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> Tensor | None:
    """Return J as a matrix for each group (groups, n, n), or None if convolutions are faster on maps of this size."""
    return (
        jacobian_matrices(weight, size, groups, padding_mode) if _takes_a_matrix(weight, size, padding_mode) else None
    )


def explicit_length(weight: Tensor, size: tuple[int, int], padding_mode: str) -> int:
    """Return the number of products that `explicit_polynomial` sums for an entry of J x."""
    taps = prod(size if _takes_a_matrix(weight, size, padding_mode) else weight.shape[-2:])
    return int(weight.shape[1]) * taps


def horner_error(
    coefficients: Sequence[float], *, norm: float, magnitude: float, length: int, size: float, entries: int
) -> float:
    """Bound the error of p(J) x by Horner's rule, s <- J s + c_k x from the leading coefficient down.

    Each step rounds three times: in the product (an error of at most gamma_n || |J| || ||s||), in the multiplication by
    c_k, and in the addition. Each later product multiplies these errors by at most ||J||. The exact s are polynomials
    of J applied to x; `polynomial_gain` bounds their norms.

    Args:
        coefficients: c_0, ..., c_n.
        norm: an upper bound on ||J||, J skew.
        magnitude: an upper bound on || |J| ||.
        length: number of products in the sum of an entry of J s.
        size: an upper bound on ||x|| for the stored x. Errors in x itself do not count here.
        entries: number of entries of x.
    """
    leading = coefficients[-1]
    state, error = abs(leading) * size, 0.0 if leading == 1 else UNIT * abs(leading) * size
    for power in reversed(range(len(coefficients) - 1)):
        term = abs(coefficients[power]) * size
        computed = state + error
        product = accumulated(length) * magnitude * computed
        product += underflow(entries, length + 2, computed + magnitude + term)
        added = UNIT * (norm * computed + product) + accumulated(2) * term
        error = norm * error + product + added
        state = polynomial_gain(coefficients[power:], norm) * size
    return up(error)


def _takes_a_matrix(weight: Tensor, size: tuple[int, int], padding_mode: str) -> bool:
    if weight.shape[-2:] == (1, 1):
        return size == (1, 1)
    # With circular padding, an entry may be a sum of several taps, whose rounding the bound does not cover.
    return prod(size) <= _MAX_PIXELS_OF_A_MATRIX and padding_mode == "zeros"
