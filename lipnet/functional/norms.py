"""Norms of convolutions: exact norms of reshaped filters, certified upper bounds, and a cheap estimate for training.

A bound here holds for the 'same' convolution with the filter on maps of every size, with zero or circular padding. The
estimate converges from below, so nothing that is guaranteed may rest on it.
"""

from math import cos, inf, isfinite, pi, prod, sqrt

import torch
from torch import Tensor

# Room for the rounding of a float64 eigenvalue decomposition.
_ROUNDING = 1 + 1e-10


def reshaped_filters(weight: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Two of the 'fantastic four' matrices of each group; for a skew filter the other two have the same norms.

    Args:
        weight: filter (c, c/groups, kh, kw).
        groups: number of groups.

    Returns:
        The matrices (groups, c/g, c/g kh kw) and (groups, c/g kh, c/g kw), indexed (o; i a b) and (o a; i b). For each,
        ||J|| <= sqrt(kh kw) ||matrix||, J being the Jacobian of the group's convolution.

    Source: Singla & Feizi, "Fantastic Four", ICLR 2021 (arXiv 1911.10258).
    """
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    flat = grouped.flatten(2)
    blocked = grouped.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    return flat, blocked


def reshaped_norm(weight: Tensor, groups: int = 1) -> Tensor:
    """The smallest norm of the `reshaped_filters` of each group, float64 of shape (groups,), differentiable."""
    norms = [_spectral_norm(matrix) for matrix in reshaped_filters(weight.double(), groups)[: _distinct(weight)]]
    return torch.stack(norms).amin(dim=0)


def _distinct(weight: Tensor) -> int:
    """How many different matrices `reshaped_filters` gives: for a 1 x 1 kernel both are the same."""
    return 1 if weight.shape[-2:] == (1, 1) else 2


def _spectral_norm(matrices: Tensor) -> Tensor:
    """Largest singular values of (..., m, n), by the eigenvalues of the smaller Gram matrix; NaN if not finite."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    gram = wide @ wide.mT
    finite = gram.isfinite().flatten(-2).all(dim=-1)
    # The library raises an error of its own for matrices that are not finite.
    eigenvalues: Tensor = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))
    # Away from 0, where the square root has no gradient.
    largest = eigenvalues[..., -1].clamp_min(torch.finfo(gram.dtype).tiny)
    return torch.where(finite, largest.sqrt(), torch.nan)


def reshaped_filter_bound(weight: Tensor, groups: int = 1) -> float:
    """Upper bound on the norm of a skew convolution: sqrt(kh kw) times the norm of a reshaped filter.

    About 1.6 times the true norm. Non-finite filters give infinity.
    """
    if not bool(weight.isfinite().all()):
        return inf
    norm = float(reshaped_norm(weight, groups).max())
    return norm * sqrt(prod(weight.shape[-2:])) * _ROUNDING if isfinite(norm) else inf


def symbol_bound(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """Upper bound on the norm of a skew convolution from its frequency response on a grid.

    The norm is at most the supremum over all frequencies w of ||A(w)||, A(w) = sum_k L_k e^{-i w k}. In each variable
    that is at most its maximum on ``grid`` equidistant points over cos(pi r / grid), with r = (k - 1) / 2. Within 4 %
    for k = 3.

    Args:
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw.
        groups: number of groups.
        grid: number of frequencies in each direction, more than kh - 1 and kw - 1.

    Raises:
        ValueError: if the grid is too coarse for the kernel.

    Source: theory of trigonometric polynomials (M. Riesz); Pfister & Bresler, arXiv 1802.09588.
    """
    kernel = weight.shape[-2:]
    if grid <= max(kernel) - 1:
        raise ValueError(f"grid must exceed {max(kernel) - 1} for a kernel {tuple(kernel)}, received {grid}")
    if not bool(weight.isfinite().all()):
        return inf
    # With the middle tap at the origin A(w) is skew-Hermitian. Half of the spectrum is enough: A(-w) is its conjugate.
    grouped = weight.double().reshape(groups, -1, *weight.shape[1:])
    padded = torch.nn.functional.pad(grouped, (0, grid - kernel[1], 0, grid - kernel[0]))
    centred = padded.roll((-(kernel[0] // 2), -(kernel[1] // 2)), dims=(-2, -1))
    response = torch.fft.rfft2(centred).movedim((-2, -1), (0, 1))
    largest = float(torch.linalg.eigvalsh(-1j * response).abs().max())
    return largest / prod(cos(pi * (k - 1) / 2 / grid) for k in kernel) * _ROUNDING


def power_iteration(matrices: Tensor, vectors: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the largest singular values of (g, m, n) matrices **from below**, starting from right vectors (g, n).

    Returns:
        The estimates (g,), differentiable in the matrices with the singular vectors held fixed, and the new right
        vectors. An estimate is never below ||A||_F / sqrt(min(m, n)), whatever the start: a vector that is orthogonal
        to all that matters, or zero, cannot make a matrix look small.
    """
    with torch.no_grad():
        right = _usable(vectors, matrices)
        for _ in range(steps):
            left = _normalize((matrices @ right.unsqueeze(-1)).squeeze(-1))
            right = _normalize((left.unsqueeze(-2) @ matrices).squeeze(-2))
    estimate = (left.unsqueeze(-2) @ matrices @ right.unsqueeze(-1)).flatten()
    floor = torch.linalg.matrix_norm(matrices) / sqrt(min(matrices.shape[-2:]))
    return torch.maximum(estimate, floor), right


def _usable(vectors: Tensor, matrices: Tensor) -> Tensor:
    """The vectors, and each that is zero or not finite replaced by the largest row: that is never orthogonal to all."""
    usable = vectors.isfinite().all(dim=-1, keepdim=True) & (vectors != 0).any(dim=-1, keepdim=True)
    largest = matrices.norm(dim=-1).argmax(dim=-1)
    rows = matrices.take_along_dim(largest[:, None, None], dim=1).squeeze(1)
    return torch.where(usable, vectors, rows)


def _normalize(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)
