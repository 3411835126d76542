"""Guaranteed upper bounds on the norms of matrices and of convolutions.

Every bound holds for the 'same' convolution on feature maps of any size, with zero or circular padding.
`lipnet.functional.norm_estimates` has the cheap estimates for training, which converge from below and prove nothing.
"""

from math import cos, inf, isfinite, pi, prod, sqrt

import torch
from torch import Tensor

from lipnet.functional.frequency import frequency_response
from lipnet.functional.rounding import to_float64

# Room for the rounding of a float64 eigenvalue or singular value decomposition.
_ROUNDING = 1 + 1e-10
# Power iteration precedes the proof of an eigenvalue bound: a better guess saves Cholesky decompositions. After a few
# steps with all matrices, only those with the largest estimates continue.
_STEPS_OF_ALL = 8
_STEPS_OF_CANDIDATES = 30
_CANDIDATES = 16


def spectral_norm_bound(matrix: Tensor) -> float:
    """Bound the spectral norm of a matrix (m, n) by its largest singular value; infinity if an entry is not finite."""
    exact = to_float64(matrix.detach())
    if not bool(exact.isfinite().all()):
        return inf
    return float(torch.linalg.matrix_norm(exact, ord=2)) * _ROUNDING


def gram_norm_bound(matrices: Tensor) -> float:
    """Bound the largest norm of finite matrices (..., m, n) by the eigenvalues of their smaller Gram matrices.

    It is faster than `spectral_norm_bound` for long matrices, and less than 1e-8 above the norm.
    """
    scale = float(matrices.abs().max())
    if scale == 0:
        return 0.0
    scaled = to_float64(matrices.detach()) / scale
    wide = scaled if scaled.shape[-2] <= scaled.shape[-1] else scaled.mT
    largest = float(torch.linalg.eigvalsh(wide @ wide.mT).max())
    # The rounding of the Gram matrix is at most m n units of its norm.
    rounding = 1e-10 + 4 * prod(wide.shape[-2:]) * torch.finfo(torch.float64).eps
    return scale * sqrt(max(largest, 0.0) * (1 + rounding)) * _ROUNDING


def reshaped_filters(weight: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Return two of the 'fantastic four' matrices of each group; for a skew filter the other two have the same norms.

    Args:
        weight: filter (c, c/groups, kh, kw).
        groups: number of groups.

    Returns:
        The matrices (groups, c/g, c/g kh kw) and (groups, c/g kh, c/g kw), indexed (o; i a b) and (o a; i b). Each
        satisfies ||J|| <= sqrt(kh kw) ||matrix|| for the Jacobian J of the group's convolution.

    Source: Singla & Feizi, "Fantastic Four", ICLR 2021 (arXiv 1911.10258).
    """
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    flat = grouped.flatten(2)
    blocked = grouped.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    return flat, blocked


def reshaped_norm(weight: Tensor, groups: int = 1) -> Tensor:
    """Return the smallest norm of each group's `reshaped_filters`, float64 of shape (groups,), differentiable."""
    matrices = reshaped_filters(to_float64(weight), groups)
    # For a 1 x 1 kernel both matrices are the same.
    distinct = matrices[:1] if weight.shape[-2:] == (1, 1) else matrices
    return torch.stack([_spectral_norm(matrix) for matrix in distinct]).amin(dim=0)


def _spectral_norm(matrices: Tensor) -> Tensor:
    """Compute the norms of matrices (..., m, n) from the eigenvalues of the smaller Gram matrix; NaN if not finite."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    gram = wide @ wide.mT
    finite = gram.isfinite().flatten(-2).all(dim=-1)
    # eigvalsh raises an error for matrices that are not finite.
    eigenvalues: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))
    # The square root has no gradient at 0.
    largest = eigenvalues[..., -1].clamp_min(torch.finfo(gram.dtype).tiny)
    return torch.where(finite, largest.sqrt(), torch.nan)


def reshaped_filter_bound(weight: Tensor, groups: int = 1) -> float:
    """Bound the norm of a skew convolution by sqrt(kh kw) times the norm of a reshaped filter.

    The bound is about 1.6 times the true norm. Filters that are not finite give infinity.
    """
    if not bool(weight.isfinite().all()):
        return inf
    norm = float(reshaped_norm(weight, groups).max())
    return norm * sqrt(prod(weight.shape[-2:])) * _ROUNDING if isfinite(norm) else inf


def symbol_bound(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """Bound the norm of a skew convolution by its frequency response A(w) on a grid of frequencies w.

    The norm is at most the supremum of ||A(w)|| over all frequencies w, A(w) = sum_k L_k e^{i w k}. In each variable
    the supremum is at most the maximum over ``grid`` equidistant points, divided by cos(pi r / grid) with
    r = (k - 1) / 2. The result is within 4 % of the supremum for k = 3 and 16 points.

    i A(w) is Hermitian. Cholesky decompositions of b I + i A(w) and of b I - i A(w) prove that its eigenvalues lie in
    (-b, b); b grows in steps of half a per cent until they all exist.

    Args:
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw.
        groups: number of groups.
        grid: number of frequencies in each direction, more than kh - 1 and kw - 1.

    Raises:
        ValueError: if the grid is too coarse for the kernel.

    Source: theory of trigonometric polynomials (M. Riesz); Pfister & Bresler, arXiv 1802.09588. Proof by a Cholesky
    decomposition that runs to its end: Rump, "Verification of positive definiteness", BIT 2006.
    """
    kernel = weight.shape[-2:]
    if grid <= max(kernel) - 1:
        raise ValueError(f"grid must exceed {max(kernel) - 1} for a kernel {tuple(kernel)}, got {grid}")
    if not bool(weight.isfinite().all()):
        return inf
    response = frequency_response(to_float64(weight), (grid, grid) if max(kernel) > 1 else (1, 1), groups)
    largest = _eigenvalue_bound((1j * response).flatten(0, -3))
    if max(kernel) > 1:
        largest /= prod(cos(pi * (k - 1) / 2 / grid) for k in kernel)
    return largest * _ROUNDING


def convolution_norm_bound(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """Bound the norm of any convolution by its frequency response A(w) on a grid of frequencies w.

    The grid and the step from it to all frequencies are those of `symbol_bound`. A(w) A(w)^* is positive semidefinite,
    and a Cholesky decomposition of b I - A(w) A(w)^* proves that its norm is less than b. Where there is none, b grows
    to the largest eigenvalue of such a matrix, so that the result is as sharp as the grid.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.
        grid: number of frequencies in each direction, more than kh and kw.

    Raises:
        ValueError: if the grid is too coarse for the kernel.

    Source: as for `symbol_bound`.
    """
    kernel = weight.shape[-2:]
    if grid <= max(kernel):
        raise ValueError(f"grid must exceed {max(kernel)} for a kernel {tuple(kernel)}, got {grid}")
    if not bool(weight.isfinite().all()):
        return inf
    # An even kernel gets a tap of zeros, so that it has a middle.
    odd = torch.nn.functional.pad(to_float64(weight.detach()), (0, 1 - kernel[1] % 2, 0, 1 - kernel[0] % 2))
    scale = float(odd.abs().max())
    if scale == 0:
        return 0.0
    points = (1 if kernel[0] == 1 else grid, 1 if kernel[1] == 1 else grid)
    response = frequency_response(odd / scale, points, groups)
    size = min(response.shape[-2:])
    # Row by row of the grid: all Gram matrices together would need several times the memory of the response.
    largest = 0.0
    for row in response:
        short = row.flatten(0, -3) if row.shape[-2] <= row.shape[-1] else row.flatten(0, -3).mH
        largest = _definite_bound(short @ short.mH, largest)
    rounding = 16 * (size + 1) * (max(response.shape[-2:]) + 4) * torch.finfo(torch.float64).eps
    beyond_the_grid = prod(cos(pi * (k - 1) / 2 / grid) for k in odd.shape[-2:])
    return scale * sqrt(largest * (1 + rounding)) / beyond_the_grid * _ROUNDING


def _definite_bound(gram: Tensor, bound: float) -> float:
    """Return a number >= bound above all eigenvalues of positive semidefinite matrices (N, n, n), with a proof."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    remaining = gram
    while True:
        unproven = torch.linalg.cholesky_ex(bound * identity - remaining).info > 0
        if not bool(unproven.any()):
            return bound
        remaining = remaining[unproven]
        # The one with the largest trace of the square is likely to have the largest eigenvalue.
        worst = remaining[remaining.abs().square().sum(dim=(1, 2)).argmax()]
        tiny = torch.finfo(torch.float64).tiny
        bound = max(bound, float(torch.linalg.eigvalsh(worst)[-1])) * (1 + 1e-9) + tiny


def _eigenvalue_bound(hermitian: Tensor) -> float:
    """Bound the moduli of all eigenvalues of the matrices (N, n, n), with a proof by Cholesky decompositions."""
    n = hermitian.shape[-1]
    start = torch.linspace(1, 2, n, dtype=torch.float64).to(hermitian)
    vectors = start.expand(len(hermitian), n).unsqueeze(-1)
    vectors, estimates = _power_iteration(hermitian, vectors, _STEPS_OF_ALL)
    candidates = estimates.topk(min(_CANDIDATES, len(estimates))).indices
    _, estimates = _power_iteration(hermitian[candidates], vectors[candidates], _STEPS_OF_CANDIDATES)
    bound = float(estimates.max()) * 1.001 + torch.finfo(torch.float64).tiny
    identity = torch.eye(n, dtype=hermitian.dtype, device=hermitian.device)
    while any(torch.linalg.cholesky_ex(bound * identity + sign * hermitian).info.any() for sign in (1, -1)):
        bound *= 1.005
    # A decomposition that exists proves eigenvalues above minus its rounding (Higham, Theorem 10.3).
    rounding = 16 * n * (n + 1) * torch.finfo(torch.float64).eps
    return bound * (1 + rounding)


def _power_iteration(hermitian: Tensor, vectors: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the vectors (N, n, 1) after some steps, and the factors (N,) by which one more step lengthens them."""
    for _ in range(steps):
        vectors = torch.nn.functional.normalize(hermitian @ vectors, dim=1, eps=torch.finfo(torch.float64).tiny)
    return vectors, (hermitian @ vectors).norm(dim=1).squeeze(1)
