"""Polynomials of a convolution by plain sums of products: what certificates rest on, for their rounding has a bound."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from lipnet.functional.convolution import jacobian_matrices, same_convolution
from lipnet.functional.exponential import apply_dense

# On maps of up to so many pixels one matrix for all pixels is faster than a convolution for each image.
_PIXELS_OF_A_MATRIX = 4


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
    """p(J) x by Horner's rule, each entry of J x being the sum of the products of its taps, and nothing cleverer.

    `skew_polynomial` computes the same by whatever is fastest; `lipnet.functional.rounding_error.horner_error` bounds
    how far this is from the exact value.

    Args:
        x, weight, coefficients, groups, padding_mode, channels: as in `skew_polynomial`.
        matrices: the `explicit_matrices` for maps of this size, to spare making them again.

    Returns:
        Maps (B, channels or c, H, W), differentiable.
    """
    size = (x.shape[-2], x.shape[-1])
    if matrices is None:
        matrices = explicit_matrices(weight, size, groups, padding_mode)

    def image(maps: Tensor, rows: Tensor) -> Tensor:
        if matrices is not None:
            return apply_dense(maps, matrices)
        return same_convolution(maps, rows, groups, padding_mode)

    lowest, *lower, leading = coefficients
    state = x if leading == 1 else x * leading
    for coefficient in reversed(lower):
        state = image(state, weight).add_(x, alpha=coefficient)
    # The last product needs to be computed for the channels alone that are wanted.
    last = image(state, weight[:channels] if groups == 1 else weight)[:, :channels]
    return last.add_(x[:, :channels], alpha=lowest)


def explicit_matrices(weight: Tensor, size: tuple[int, int], groups: int, padding_mode: str) -> Tensor | None:
    """J as a matrix for each group (groups, n, n), for maps so small that it pays; None elsewhere."""
    return (
        jacobian_matrices(weight, size, groups, padding_mode) if _takes_a_matrix(weight, size, padding_mode) else None
    )


def explicit_length(weight: Tensor, size: tuple[int, int], padding_mode: str) -> int:
    """How many products an entry of J x sums when `explicit_polynomial` computes it."""
    taps = prod(size if _takes_a_matrix(weight, size, padding_mode) else weight.shape[-2:])
    return int(weight.shape[1]) * taps


def _takes_a_matrix(weight: Tensor, size: tuple[int, int], padding_mode: str) -> bool:
    """Only where the matrix's entries are taps or zeros, exactly: wrapped around, several taps would be added."""
    if weight.shape[-2:] == (1, 1):
        return size == (1, 1)
    return prod(size) <= _PIXELS_OF_A_MATRIX and padding_mode == "zeros"
