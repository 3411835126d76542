"""Matrices of norm at most 1: proofs, and scalings that make the norm at most 1 after rounding.

For layers whose matrices are orthogonal or contractions in exact arithmetic, but not necessarily after rounding.
"""

from fractions import Fraction
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from lipnet.functional.norm_bounds import spectral_norm_bound
from lipnet.functional.rounding import square_root_up, to_float64

_EPS = torch.finfo(torch.float64).eps
# Factor that covers the rounding of eigenvalues in float64.
_ROUNDING = 1 + 1e-10
_ATTEMPTS = 3
# Norm of Q^T Q - I above which singular values are computed, too. They take longer but give a better bound, for example
# for an average of orthogonal matrices, which is a contraction with a large deviation.
_LARGE_DEVIATION = 1e-4
_SQUARINGS = 3
# ||Q^* Q - I||_F beyond which no rounding in double precision explains that a matrix is not orthogonal.
_LARGEST_DEFECT = 1e-6


def norm_of_matrices(matrices: Tensor) -> float:
    """Bound the largest norm among matrices (..., m, n): 1.0 if all are proved to be at most 1, else by eigenvalues.

    A Cholesky decomposition of (1 - r) I - A^* A that runs to its end proves ||A|| <= 1. r covers the rounding of the
    product and of the decomposition (Rump, "Verification of positive definiteness", BIT 2006). The bound is infinite if
    an entry is not finite.

    Example:
        >>> norm_of_matrices(torch.tensor([[0.6, 0.8], [0.8, -0.6]]) * (1 - 1e-6))
        1.0
        >>> round(norm_of_matrices(torch.tensor([[3.0, 4.0]])), 6)
        5.0
    """
    if matrices.numel() == 0:
        return 1.0
    precise = matrices.detach().to(torch.promote_types(matrices.dtype, torch.float64))
    tall = precise if matrices.shape[-2] >= matrices.shape[-1] else precise.mH
    gram = tall.mH @ tall
    if not bool(gram.isfinite().all()):
        return inf
    rounding = _rounding(tall.shape[-1], tall.shape[-2])
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    if not bool(torch.linalg.cholesky_ex((1 - rounding) * identity - gram).info.any()):
        return 1.0
    largest = float(torch.linalg.eigvalsh(gram)[..., -1].max())
    return sqrt(largest + rounding * max(1.0, largest)) * _ROUNDING


def contraction_margin(matrices: Tensor, dtype: torch.dtype) -> float:
    """Return the share by which `contractions` shrinks matrices before it rounds them to a dtype.

    Rounding changes a matrix (m, n) of norm 1 by a Frobenius norm of at most sqrt(min(m, n)) half units. The margin
    also covers the rounding in the proof of `norm_of_matrices`, and as much again for the float64 arithmetic behind the
    matrices.
    """
    m, n = matrices.shape[-2:]
    return sqrt(min(m, n)) * torch.finfo(dtype).eps / 2 * 1.01 + 2 * _rounding(min(m, n), max(m, n))


def contractions(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Round matrices to a dtype, all shrunk by one factor so that no norm exceeds 1.

    The factor starts at 1 - `contraction_margin`, which is enough for matrices that are contractions up to the rounding
    of float64. It is divided by the largest norm until all norms are proved to be at most 1. Compiled code only uses
    the first factor, without a proof.

    Args:
        matrices: (..., m, n), in double precision.
        dtype: of the result, real or complex as the matrices are.

    Returns:
        The shrunk matrices, differentiable, with the factor held constant. If an entry is not finite, only the first
        factor is used.

    Raises:
        ValueError: if the norms cannot be brought down to 1.
    """
    margin = contraction_margin(matrices, dtype)
    factor = 1 - margin
    result = (matrices * factor).to(dtype)
    if torch.compiler.is_compiling() or not bool(matrices.isfinite().all()):
        return result
    for _ in range(_ATTEMPTS):
        norm = norm_of_matrices(result)
        if norm <= 1:
            return result
        factor /= norm * (1 + margin)
        result = (matrices * factor).to(dtype)
    raise ValueError(f"matrices of shape {tuple(matrices.shape)} cannot be scaled to norm 1, got norms up to {norm}")


def orthogonal_contractions(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Round nearly orthogonal or unitary matrices to a dtype, and shrink them so that no norm exceeds 1.

    Unlike `contractions`, it needs one product per attempt and no Cholesky decomposition, and it refuses other
    matrices. The bound is ||Q||^2 = ||Q^* Q|| <= c + ||Q^* Q - c I||_F for every c >= 0, evaluated in double precision
    for the rounded entries.

    Args:
        matrices: (..., n, n), in double precision.
        dtype: of the result, real or complex as the matrices are.

    Returns:
        Matrices of norm at most 1, all shrunk by the same factor.

    Raises:
        ValueError: if they are not finite or farther from orthogonal than rounding explains.
    """
    result, shrunk = matrices.to(dtype), 1.0
    for attempt in range(4):
        norm, defect = _norm_and_defect(result.to(matrices.dtype))
        # Rounding moves a matrix of n columns of length 1 by at most sqrt(n) units.
        if attempt == 0 and not defect <= _LARGEST_DEFECT + 4 * sqrt(matrices.shape[-1]) * torch.finfo(dtype).eps:
            break
        if norm <= 1:
            return result
        if dtype == matrices.dtype:
            # Rounding the shrunk entries moves the matrix by at most sqrt(n) units. The divisor covers them.
            return matrices / (norm * (1 + (sqrt(matrices.shape[-1]) + 4) * torch.finfo(dtype).eps))
        shrunk /= norm * (1 + 2 * torch.finfo(dtype).eps)
        result = (matrices * shrunk).to(dtype)
    raise ValueError(
        f"matrices of shape {tuple(matrices.shape)} are not orthogonal: norms up to {norm}, and ||Q^* Q - I|| up to "
        f"{defect}"
    )


def _norm_and_defect(matrices: Tensor) -> tuple[float, float]:
    """Bound the largest norm, rounding of the bound included, and return it with the largest ||Q^* Q - I||_F."""
    n = matrices.shape[-1]
    gram = matrices.mH @ matrices
    middle = gram.diagonal(dim1=-2, dim2=-1).real.mean(dim=-1)
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)
    beside = torch.linalg.matrix_norm(gram - middle[..., None, None] * identity)
    # Each of the n^2 entries of the product is off by at most n units, and by a few in complex arithmetic.
    rounding = 8 * n * (n + 4) * torch.finfo(matrices.dtype).eps
    norm = sqrt(float((middle + beside).max()) + rounding) * (1 + torch.finfo(torch.float64).eps)
    return norm, float((beside + sqrt(n) * (middle - 1).abs()).max())


def orthogonal_norm_bound(matrices: Tensor) -> float:
    """Bound the largest spectral norm among nearly orthogonal matrices Q (..., n, n).

    ||Q||^2 = ||Q^T Q|| <= 1 + ||R|| with R = Q^T Q - I. R is symmetric, so ||R||^8 <= ||R^8||_F. Everything is computed
    in float64; the roundings of the products are added, and the result is rounded up. If R is large, the singular
    values are computed, too, and the smaller bound counts. Entries that are not finite give infinity.
    """
    exact = to_float64(matrices.detach()).reshape(-1, *matrices.shape[-2:])
    size = exact.shape[-1]
    power = exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)
    deviation = torch.linalg.matrix_norm(power)
    for squaring in range(1, _SQUARINGS + 1):
        power = power @ power
        # The rounding of a product, at most n eps ||R||_F^2, is at most 2 n^2 eps times the norm of R^2.
        norms = torch.linalg.matrix_norm(power) ** (0.5**squaring) * (1 + 16 * size**2 * _EPS)
        # Ignore powers of R that have underflowed or overflowed.
        usable = (norms > 1e-30) & norms.isfinite()
        deviation = torch.where(usable, torch.minimum(deviation, norms), deviation)
    # The rounding of Q^T Q and of the subtraction: gamma_n || |Q|^T |Q| ||.
    rounding = 2 * (size + 2) * _EPS * (exact.square().sum(dim=(-2, -1)) + 1)
    largest = float((deviation * (1 + 4 * size**2 * _EPS) + rounding).max())
    if not isfinite(largest):
        return inf
    bound = square_root_up(1 + Fraction(largest))
    if largest > _LARGE_DEVIATION:
        bound = min(bound, max(spectral_norm_bound(matrix) for matrix in exact))
    return bound


def _rounding(columns: int, rows: int) -> float:
    """Bound the rounding of A^* A and of its Cholesky decomposition, for A (rows, columns) of norm about 1."""
    # A complex product has four real ones. The errors of the columns^2 entries of A^* A add up in the Frobenius norm.
    # So do the errors of the decomposition, which are relative to a trace of at most the number of columns.
    return 8 * columns * (rows + columns + 8) * _EPS
