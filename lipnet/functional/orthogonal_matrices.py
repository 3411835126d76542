"""Differentiable maps from any matrices to orthogonal (real) or unitary (complex) ones, and to contractions.

They use products, Cholesky decompositions and triangular solves. LU decompositions are avoided: batched LU of matrices
above 64 x 64 does not return in some builds of torch 2.14.1.
"""

from typing import Any

import torch
from torch import Tensor


def cayley(matrices: Tensor) -> Tensor:
    """Return the Cayley transform of matrices (..., m, n), with orthonormal columns if m >= n, rows otherwise.

    With W = [U; V], U square, A = U - U^* + V^* V and B = (I + A)^{-1}: Q = [B (I - A); -2 V B] = [2 B - I; -2 V B].

    Source: Trockman & Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021
    (arXiv 2104.07167).

    Example:
        >>> cayley(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).round(decimals=5) + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    m, n = matrices.shape[-2:]
    if m < n:
        return cayley(matrices.mH).mH
    upper, lower = matrices[..., :n, :], matrices[..., n:, :]
    identity = torch.eye(n, dtype=matrices.dtype, device=matrices.device)
    accretive = identity + upper - upper.mH
    if m == n:
        return 2 * accretive_inverse(accretive, True) - identity
    inverse = accretive_inverse(accretive + lower.mH @ lower, False)
    return torch.cat([2 * inverse - identity, -2 * lower @ inverse], dim=-2)


def orthogonal_cayley(matrices: Tensor) -> Tensor:
    """Return `cayley` of real square matrices (..., n, n), corrected by one Newton-Schulz step.

    The rounding of the Cholesky decomposition grows with the square of the skew part's norm. The step removes most of
    it. Half precision, which has no such decomposition, is computed in float32.
    """
    precise = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    return newton_schulz_step(cayley(precise)).to(matrices.dtype)


def newton_schulz_step(matrices: Tensor) -> Tensor:
    """Return Q + Q (I - Q^T Q) / 2 for real Q (..., n, n), a step towards the polar factor of Q.

    A deviation d of Q^T Q from I becomes about 3 d^2 / 4. Repeated steps converge for singular values in (0, sqrt(3)).
    """
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return matrices + matrices @ (identity - matrices.mT @ matrices) / 2


def polar_retraction(matrices: Tensor, steps: int = 3) -> Tensor:
    """Approximate the orthogonal matrices nearest to real matrices Q (..., n, n) that are close to orthogonal.

    Three Newton-Schulz steps reduce a deviation of 0.1 to less than 1e-11, with products only.
    """
    for _ in range(steps):
        matrices = newton_schulz_step(matrices)
    return matrices


def polar(matrices: Tensor, steps: int) -> Tensor:
    """Approximate the polar factor W (W^* W)^{-1/2} of matrices (..., m, n), m >= n, by Newton-Schulz steps.

    X <- X (3 I - X^* X) / 2 takes each singular value s in [0, 1] to s (3 - s^2) / 2 in [s, 1], so the norm is at most
    1 after any number of steps. The start is W / ||W^* W||_F^{1/2}. Singular values of 0 stay 0. If m < n, the polar
    factor is (W W^*)^{-1/2} W. For real matrices, `polar_factor` needs fewer steps.

    Source: Xu, Li & Li, "LOT: Layer-wise Orthogonal Training", NeurIPS 2022 (arXiv 2210.11620).

    Example:
        >>> polar(torch.tensor([[0.0, -5.0], [5.0, 0.0]]), steps=10).round(decimals=5) + 0.0
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if matrices.shape[-2] < matrices.shape[-1]:
        return polar(matrices.mH, steps).mH
    factor: Tensor = _normalised(matrices)
    gram = factor.mH @ factor
    size = torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    factor, gram = factor / size.sqrt(), gram / size
    for step in range(steps):
        if step:
            gram = factor.mH @ factor
        factor = 1.5 * factor - 0.5 * (factor @ gram)
    return factor


def polar_factor(matrices: Tensor, steps: int = 10) -> Tensor:
    """Approximate the nearest matrices with orthonormal columns (rows, if those are fewer), of norm at most 1.

    Each step takes a singular value s to s (15 - 10 s^2 + 3 s^4) / 8, which maps [0, 1] to itself and cubes the
    distance from 1. Small singular values grow by 15 / 8 a step: ten steps suffice for condition numbers up to 200. For
    larger ones, and for matrices without full rank, the result is a contraction all the same.

    Args:
        matrices: (..., m, n), real.
        steps: number of steps.

    Returns:
        (..., m, n), differentiable.

    Source: Newton-Schulz iteration of order 3; Björck & Bowie, SIAM J. Numer. Anal. 8, 1971.

    Example:
        >>> polar_factor(torch.tensor([[3.0, 0.0], [0.0, -0.1]]))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    if matrices.numel() == 0:
        return matrices
    wide = matrices.shape[-2] < matrices.shape[-1]
    factor = matrices.mT if wide else matrices
    gram = factor.mT @ factor
    # The largest row sum of absolute values bounds the largest eigenvalue.
    largest = gram.abs().sum(dim=-1).amax(dim=-1)[..., None, None]
    scale = largest.clamp_min(torch.finfo(gram.dtype).tiny).rsqrt()
    factor = factor * scale
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    for _ in range(steps):
        gram = factor.mT @ factor
        factor = factor @ (1.875 * identity - 1.25 * gram + 0.375 * (gram @ gram))
    return factor.mT if wide else factor


def block_reflector(matrices: Tensor, damping: float = 1e-5) -> Tensor:
    """Return the block reflectors I - 2 V (V^* V + e I)^{-1} V^*, (..., n, n), of matrices V (..., n, r).

    e is ``damping`` times the mean of the diagonal of V^* V. The eigenvalues 1 - 2 s^2 / (s^2 + e), for the singular
    values s of V, lie in (-1, 1].

    Source: Lai et al., "Enhancing Certified Robustness via Block Reflector Orthogonal Layers and Logit Annealing Loss",
    ICML 2025 (arXiv 2505.15174).

    Example:
        >>> block_reflector(torch.tensor([[2.0], [0.0]]), damping=0.0).round(decimals=5) + 0.0
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """
    n, rank = matrices.shape[-2:]
    # The mean of the diagonal is then 1 / r, or 0 for a matrix of zeros.
    normalised = _normalised(matrices)
    identity, small = (torch.eye(size, dtype=matrices.dtype, device=matrices.device) for size in (n, rank))
    gram = normalised.mH @ normalised + damping / rank * small
    rows: Tensor = torch.linalg.solve_triangular(_cholesky(gram), normalised.mH, upper=False)
    return identity - 2 * rows.mH @ rows


def accretive_inverse(matrices: Tensor, unit: bool) -> Tensor:
    """Invert matrices M (..., n, n) with a positive definite Hermitian part N = (M + M^*) / 2.

    With N = L L^* and the skew-Hermitian K = L^{-1} (M - M^*) / 2 L^{-*}, (I + K)^{-1} = (I - K^2)^{-1} (I - K), and
    I - K^2 = I + K^* K is positive definite. So Cholesky decompositions are enough.

    Args:
        matrices: M, differentiable; the gradient takes two products.
        unit: True if N is the identity, which saves its decomposition.
    """
    if torch.is_grad_enabled() and matrices.requires_grad:
        inverse: Tensor = _AccretiveInverse.apply(matrices, unit)
        return inverse
    return _accretive_inverse(matrices, unit)


class _AccretiveInverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrices: Tensor, unit: bool) -> Tensor:
        return _accretive_inverse(matrices, unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inverse,) = ctx.saved_tensors
        return -inverse.mH @ gradient @ inverse.mH, None


def _accretive_inverse(matrices: Tensor, unit: bool) -> Tensor:
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    skew = (matrices - matrices.mH) / 2
    if unit:
        return _skew_inverse(skew, identity)
    factor = _cholesky((matrices + matrices.mH) / 2)
    inverted: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return inverted.mH @ _skew_inverse(inverted @ skew @ inverted.mH, identity) @ inverted


def _skew_inverse(skew: Tensor, identity: Tensor) -> Tensor:
    """Return (I + K)^{-1} for skew-Hermitian K."""
    inverse: Tensor = torch.cholesky_solve(identity - skew, _cholesky(identity + skew.mH @ skew))
    return inverse


def _cholesky(matrices: Tensor) -> Tensor:
    """Return Cholesky factors; NaN, not an exception, for matrices that have none."""
    factors, info = torch.linalg.cholesky_ex(matrices)
    checked: Tensor = torch.where((info == 0)[..., None, None], factors, torch.nan)
    return checked


def _normalised(matrices: Tensor) -> Tensor:
    """Divide matrices by their Frobenius norms; matrices of zeros stay zero."""
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)
    normalised: Tensor = matrices / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return normalised
