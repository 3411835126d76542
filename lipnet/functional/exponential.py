"""The exponential of a skew convolution, or a polynomial in its place, as a dense matrix over all pixels."""

from collections.abc import Sequence
from math import ceil, isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import jacobian_matrices, reads_channels_last
from lipnet.functional.series import exponential_coefficients

# A polynomial this close to the exponential differs from it by rounding only. Above the norm, its terms cancel.
_ROUNDING = 2e-15
_LARGEST_NORM = 2.5


def dense_exponential(
    weight: Tensor,
    size: tuple[int, int],
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    coefficients: Sequence[float] | None = None,
) -> Tensor:
    """Return exp(J), or a polynomial p(J) in its place, as a matrix for each group.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        size: H and W of the feature maps; (1, 1) for a 1 x 1 kernel, whose matrix is the same at each pixel.
        groups: number of groups.
        padding_mode: ``"zeros"`` or ``"circular"``.
        coefficients: of p, lowest degree first; None for the exponential itself.

    Returns:
        (groups, n, n), n = c/groups H W, for maps flattened in the order (channel, row, column); differentiable.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> dense_exponential(rotation, (1, 1))
        tensor([[[ 0.5403,  0.8415],
                 [-0.8415,  0.5403]]])
    """
    return matrix_function(jacobian_matrices(weight, size, groups, padding_mode), coefficients)


def matrix_function(matrices: Tensor, coefficients: Sequence[float] | None = None) -> Tensor:
    """Return exp(A) of matrices A (..., n, n), or sum_k c_k A^k with about 2 sqrt(degree) matrix products.

    The powers up to A^s, with s ~ sqrt(degree), give pieces of s terms each, and Horner's rule in A^s sums the pieces
    (Paterson & Stockmeyer, SIAM J. Comput. 2, 1973).

    Args:
        matrices: real or complex.
        coefficients: c_0, ..., c_n, at least one; None for the exponential.

    Example:
        >>> matrix_function(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), (1.0, 1.0, 0.5, 1 / 6))
        tensor([[ 0.5000,  0.8333],
                [-0.8333,  0.5000]])
    """
    if coefficients is None:
        exponentials: Tensor = torch.linalg.matrix_exp(matrices)
        return exponentials
    degree = len(coefficients) - 1
    length = _piece_length(degree)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    powers = [identity.expand_as(matrices), matrices]
    while len(powers) <= length:
        powers.append(matrices @ powers[-1])
    # The last piece also has the leading term.
    starts = range(0, max(degree, 1), length)
    pieces = [coefficients[start : start + length] for start in starts[:-1]] + [coefficients[starts[-1] :]]
    *lower, result = (_sum(piece, powers) for piece in pieces)
    for piece in reversed(lower):
        result = piece + powers[length] @ result
    return result


def exact_coefficients(norm: float) -> tuple[float, ...] | None:
    """Return the polynomial for `matrix_function` that equals exp(A) up to rounding, for skew A of at most this norm.

    It needs 6 products for a norm of 1.5. ``torch.linalg.matrix_exp`` needs about 10, because it knows only the column
    sums, not the norm. None for norms above 2.5, where terms of the polynomial would cancel.
    """
    return exponential_coefficients(norm, _ROUNDING) if norm <= _LARGEST_NORM else None


def products_of_a_polynomial(degree: int) -> int:
    """Return the number of matrix products that `matrix_function` needs for a degree of at least 1."""
    length = _piece_length(degree)
    return length + ceil(degree / length) - 2


def _piece_length(degree: int) -> int:
    # length + ceil(degree / length) products are fewest near the square root.
    return max(1, isqrt(degree))


def _sum(coefficients: Sequence[float], powers: Sequence[Tensor]) -> Tensor:
    first, *others = (c * power for c, power in zip(coefficients, powers, strict=False))
    return sum(others, first)


def apply_dense(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply the feature maps of each group by its matrix.

    Args:
        x: feature maps (B, c, H, W).
        matrices: (groups, n, n) with n = c/groups H W, or n = c/groups for the same matrix at each pixel.

    Returns:
        Feature maps (B, c, H, W).
    """
    groups, length, _ = matrices.shape
    if length * groups == x.shape[1] and x.shape[-2:] != (1, 1):
        if reads_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last)
            if groups == 1:
                return (x.permute(0, 2, 3, 1) @ matrices[0].mT).permute(0, 3, 1, 2)
        return F.conv2d(x, matrices.reshape(groups * length, length, 1, 1), groups=groups)
    grouped = x.reshape(x.shape[0], groups, length).transpose(0, 1)
    return (grouped @ matrices.mT).transpose(0, 1).reshape(x.shape)
