"""Orthogonal matrices by products and Cholesky decompositions: Cayley transform, retraction, and a bound on the norm.

There is no LU decomposition: batched LU of matrices above 64 x 64 does not return in some builds of torch 2.14.1.
"""

from fractions import Fraction
from math import inf, isfinite

import torch
from torch import Tensor

from lipnet.functional.norm_bounds import spectral_norm_bound
from lipnet.functional.rounding import square_root_up, to_float64

# Above this deviation of Q^T Q from I, singular values are worth their time: an average of orthogonal matrices is a
# contraction, for which the deviation says little.
_LARGE_DEVIATION = 1e-4
_SQUARINGS = 3


def cayley_transform(free: Tensor) -> Tensor:
    """Return the Cayley transform (I - K)(I + K)^{-1} of the skew part K = A - A^T of matrices A (..., n, n).

    The factors commute, so that the transform is (I + K^T K)^{-1} (I - K)^2. The first matrix is positive definite: a
    Cholesky decomposition solves the system. One Newton-Schulz step then removes most of the rounding, which grows with
    ||K||^2. Differentiable; entries that are not finite give NaN.

    Example:
        >>> cayley_transform(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).tolist()
        [[0.0, -1.0], [1.0, 0.0]]
    """
    skew = free - free.mT
    identity = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    factor, _ = torch.linalg.cholesky_ex(identity + skew.mT @ skew)
    difference = identity - skew
    return newton_schulz_step(torch.cholesky_solve(difference @ difference, factor))


def newton_schulz_step(matrices: Tensor) -> Tensor:
    """Return Q (3 I - Q^T Q) / 2 for Q (..., n, n), which approaches the polar factor quadratically.

    A deviation d of Q^T Q from I becomes about 3 d^2 / 4. It converges for singular values in (0, sqrt(3)).
    """
    return 1.5 * matrices - 0.5 * matrices @ (matrices.mT @ matrices)


def polar_retraction(matrices: Tensor, steps: int = 3) -> Tensor:
    """Return nearly the nearest orthogonal matrices to Q (..., n, n), which must be close to orthogonal.

    Three Newton-Schulz steps take a deviation of 0.1 below 1e-11, and use products alone.
    """
    for _ in range(steps):
        matrices = newton_schulz_step(matrices)
    return matrices


def orthogonal_norm_bound(matrices: Tensor) -> float:
    """Bound the spectral norm of the largest of matrices Q (..., n, n) that are nearly orthogonal.

    ||Q||^2 = ||Q^T Q|| <= 1 + ||E|| with E = Q^T Q - I. E is symmetric, so ||E||^8 <= ||E^8||_F. Everything is computed
    in float64; the roundings of the products are added, and the result is rounded up. Where E is large, the singular
    values may give a better bound. Entries that are not finite give infinity.
    """
    exact = to_float64(matrices.detach()).reshape(-1, *matrices.shape[-2:])
    size, eps = exact.shape[-1], torch.finfo(torch.float64).eps
    power = exact.mT @ exact - torch.eye(size, dtype=exact.dtype, device=exact.device)
    deviation = torch.linalg.matrix_norm(power)
    for squaring in range(1, _SQUARINGS + 1):
        power = power @ power
        # A product's rounding, at most n eps ||E||_F^2, is at most 2 n^2 eps of the norm of E^2.
        norms = torch.linalg.matrix_norm(power) ** (0.5**squaring) * (1 + 16 * size**2 * eps)
        # Small powers underflow, and large ones overflow.
        usable = (norms > 1e-30) & norms.isfinite()
        deviation = torch.where(usable, torch.minimum(deviation, norms), deviation)
    # The rounding of Q^T Q and of the subtraction: gamma_n || |Q|^T |Q| ||.
    rounding = 2 * (size + 2) * eps * (exact.square().sum(dim=(-2, -1)) + 1)
    largest = float((deviation * (1 + 4 * size**2 * eps) + rounding).max())
    if not isfinite(largest):
        return inf
    bound = square_root_up(1 + Fraction(largest))
    if largest > _LARGE_DEVIATION:
        bound = min(bound, max(spectral_norm_bound(matrix) for matrix in exact))
    return bound
