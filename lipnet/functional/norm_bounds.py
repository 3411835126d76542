"""Guaranteed upper bounds on the norms of matrices and of convolutions.

Every bound holds for the 'same' convolution on feature maps of any size, with zero or circular padding.
`lipnet.functional.norm_estimates` has cheap estimates for training. They converge from below and prove nothing.
"""

from math import frexp, inf, prod, sqrt
from operator import itemgetter

import torch
from torch import Tensor

from lipnet.functional.eigenvalue_bounds import eigenvalue_bound
from lipnet.functional.frequency import frequency_response, room_beyond_grid
from lipnet.functional.norm_estimates import power_iteration
from lipnet.functional.rounding import BELOW_NORMAL, to_float64

# Factor that covers the rounding of an eigenvalue or singular value decomposition in float64.
_ROUNDING = 1 + 1e-10


def spectral_norm_bound(matrix: Tensor) -> float:
    """Bound the spectral norm of a matrix (m, n) by its largest singular value; infinity if an entry is not finite."""
    exact = to_float64(matrix.detach())
    if not bool(exact.isfinite().all()):
        return inf
    if not bool(exact.any()):
        return 0.0
    return float(torch.linalg.matrix_norm(exact, ord=2)) * _ROUNDING + BELOW_NORMAL


def gram_norm_bound(matrices: Tensor) -> float:
    """Bound the largest norm of finite matrices (..., m, n) by the eigenvalues of their smaller Gram matrices.

    It is faster than `spectral_norm_bound` for matrices that are far from square, and within 1e-8 (relative) of the
    norm.
    """
    scale = float(matrices.abs().max())
    if scale == 0:
        return 0.0
    scaled = to_float64(matrices.detach()) / scale
    wide = scaled if scaled.shape[-2] <= scaled.shape[-1] else scaled.mT
    largest = float(torch.linalg.eigvalsh(wide @ wide.mT).max())
    # The rounding of the Gram matrix is at most m n units of its norm.
    rounding = 1e-10 + 4 * prod(wide.shape[-2:]) * torch.finfo(torch.float64).eps
    return scale * sqrt(max(largest, 0.0) * (1 + rounding)) * _ROUNDING + BELOW_NORMAL


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


def reshaped_filter_bound(weight: Tensor, groups: int = 1, at_most: float = inf) -> float:
    """Bound the norm of a skew convolution by sqrt(kh kw) times the norm of a reshaped filter.

    The bound is about 1.6 times the true norm. Filters that are not finite give infinity.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        groups: number of groups.
        at_most: another bound; it is returned if an estimate shows that this one is not smaller.
    """
    if not bool(weight.isfinite().all()):
        return inf
    factor = sqrt(prod(weight.shape[-2:])) * _ROUNDING
    flat, blocked = reshaped_filters(to_float64(weight.detach()), groups)
    # Both are the same for a 1 x 1 kernel.
    matrices = [flat] if weight.shape[-2:] == (1, 1) else [flat, blocked]
    estimates = [power_iteration(each, torch.zeros_like(each[:, 0]), 4)[0] for each in matrices]
    if float(torch.stack(estimates).amin(dim=0).max()) * factor >= at_most:
        return at_most
    bounds = []
    for group in range(groups):
        bound = inf
        pairs = [(float(values[group]), each) for values, each in zip(estimates, matrices, strict=True)]
        for estimate, each in sorted(pairs, key=itemgetter(0)):
            # Estimates are from below: a matrix whose estimate reaches the bound cannot improve it.
            if estimate < bound:
                bound = min(bound, _gram_bound(each[group]))
        bounds.append(bound)
    return min(max(bounds) * factor, at_most)


def _gram_bound(matrix: Tensor) -> float:
    """Bound the norm of a float64 matrix (m, n) by the largest eigenvalue of its smaller Gram matrix."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    gram = wide @ wide.mT
    if not bool(gram.isfinite().all()):
        return inf
    # Each entry of the Gram matrix is a sum of k products. Its error is at most k u times the sum of their moduli, plus
    # 2^-1022 for each product that underflows.
    rounding = (wide.shape[1] + 2) * torch.finfo(torch.float64).eps * float(gram.trace()) + wide.numel() * 2.0**-1022
    largest_entry = float(gram.abs().max())
    if largest_entry == 0:
        # The matrix is zero, or so small that all squares have underflowed.
        return float(wide.norm()) + sqrt(wide.numel()) * 2.0**-537
    scale = _power_of_two(largest_entry)
    return sqrt(eigenvalue_bound((gram / scale).unsqueeze(0), signs=(-1,)) * scale + rounding)


def symbol_bound(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """Bound the norm of a skew convolution by its frequency response A(w) on a grid of frequencies w.

    The norm is at most the supremum of ||A(w)|| over all frequencies w, A(w) = sum_k L_k e^{i w k}. The supremum is at
    most `room_beyond_grid` times the maximum over the grid. For a 3 x 3 kernel and 16 points, the bound is within 4 %
    of the supremum.

    i A(w) is Hermitian; `lipnet.functional.eigenvalue_bounds` proves a bound on its eigenvalues.

    Args:
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw.
        groups: number of groups.
        grid: number of frequencies in each direction, more than kh - 1 and kw - 1.

    Raises:
        ValueError: if the grid is too coarse for the kernel.

    Source: proof by a Cholesky decomposition that runs to its end: Rump, "Verification of positive definiteness",
    BIT 2006.
    """
    kernel = weight.shape[-2:]
    if grid <= max(kernel) - 1:
        raise ValueError(f"grid must exceed {max(kernel) - 1} for a kernel {tuple(kernel)}, got {grid}")
    if not bool(weight.isfinite().all()):
        return inf
    exact = to_float64(weight.detach())
    # No entry of a response exceeds the sum of the moduli of the taps.
    largest_entry = float(exact.abs().sum(dim=(-2, -1)).max())
    if largest_entry == 0:
        return 0.0
    scale = _power_of_two(largest_entry)
    pointwise = max(kernel) == 1
    response = frequency_response(exact / scale, (1, 1) if pointwise else (grid, grid), groups)
    # A(0) is real, so the eigenvalues of i A(0) are symmetric about 0.
    largest = eigenvalue_bound(response.mul_(1j).flatten(0, -3), signs=(1,) if pointwise else (1, -1)) * scale
    return largest * room_beyond_grid(kernel, grid) * _ROUNDING + BELOW_NORMAL


def _power_of_two(magnitude: float) -> float:
    """Return a power of two p with magnitude / p between 1 and 2, which scales without rounding."""
    return 2.0 ** (frexp(magnitude)[1] - 1)
