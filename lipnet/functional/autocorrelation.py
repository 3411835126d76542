"""The taps of a convolution's Gram operator, and two bounds on the convolution's norm that follow from them.

Every bound holds for feature maps of any size, with zero or circular padding: zero padding only removes rows and
columns from the operator on all pixels of the plane.
"""

from math import inf, sqrt

import torch
from torch import Tensor

from lipnet.functional.kernel_norms import kernel_norm_bound
from lipnet.functional.norm_bounds import gram_norm_bound
from lipnet.functional.rounding import to_float64
from lipnet.functional.rounding_error import UNIT, absolute_filter_norm, accumulated, up
from lipnet.functional.skew import adjoint_filter

_STEPS = 200
# Beyond this distance from orthogonality, the frequency response gives the better bound.
_LARGE_RESIDUAL = 0.05


def autocorrelation(weight: Tensor, groups: int = 1) -> Tensor:
    """Return the taps of the Gram operator J^T J of a convolution J, for the offsets of one half plane.

    J^T J is a convolution itself, with the taps C_t[i, j] = sum_{o, a} L[o, i, a] L[o, j, a + t] for offsets t. C_{-t}
    is the transpose of C_t, so half of them are enough.

    Args:
        weight: filter L (c_out, c_in/groups, kh, kw).
        groups: number of groups.

    Returns:
        (T, groups, c_in/groups, c_in/groups) with T = ((2 kh - 1) (2 kw - 1) + 1) / 2, offset 0 first; differentiable.

    Example:
        >>> autocorrelation(torch.tensor([[[[1.0, 2.0]]]])).flatten()
        tensor([5., 2.])
    """
    kh, kw = weight.shape[-2:]
    taps = weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 3, 4, 1, 2)
    results = []
    for down, right in _half_plane(kh, kw):
        first = taps[:, : kh - down, max(0, -right) : kw - max(0, right)]
        second = taps[:, down:, max(0, right) : kw + min(0, right)]
        results.append(first.flatten(1, 3).mT @ second.flatten(1, 3))
    return torch.stack(results)


def _half_plane(kh: int, kw: int) -> list[tuple[int, int]]:
    """Return the offsets (rows, columns) of one half plane, (0, 0) first."""
    beside = [(0, right) for right in range(kw)]
    return beside + [(down, right) for down in range(1, kh) for right in range(1 - kw, kw)]


def absolute_gram(weight: Tensor, groups: int = 1) -> Tensor:
    """Return B with B[i, j] = sum_t |C_t[i, j]| over all taps C_t of the Gram operator (see `autocorrelation`).

    For any q > 0, ||J||^2 <= max_i (B q)_i / q_i: a weighted row sum of absolute values bounds the spectral radius of
    J^T J.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.

    Returns:
        B (groups, c_in/groups, c_in/groups), differentiable.

    Source: Prach & Lampert, "Almost-orthogonal layers", ECCV 2022 (arXiv 2208.03160).
    """
    taps = autocorrelation(weight, groups).abs()
    half = taps[1:].sum(dim=0)
    result: Tensor = taps[0] + half + half.mT
    return result


def dominance_bound(weight: Tensor, groups: int = 1) -> float:
    """Bound the norm of a convolution by sqrt(max_i (B q)_i / q_i), with B = `absolute_gram` and the best q found.

    Power iteration finds q. The bound holds for every q, converged or not (Collatz and Wielandt).

    Args:
        weight: finite filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.
    """
    exact = to_float64(weight.detach())
    # The error of C_t is at most gamma_n times the C_t of |L|. Their sum over t has a norm of at most || |J| ||^2.
    rounding = accumulated(_length(weight, groups)) * absolute_filter_norm(exact, groups) ** 2
    return up(sqrt(_spectral_radius_bound(absolute_gram(exact, groups)) + rounding))


def _spectral_radius_bound(matrices: Tensor) -> float:
    """Bound the spectral radius of matrices (N, n, n) without negative entries."""
    vectors = torch.ones_like(matrices[..., :1])
    best = torch.full((len(matrices),), inf, dtype=matrices.dtype, device=matrices.device)
    for _ in range(_STEPS):
        images = matrices @ vectors
        largest = (images / vectors).amax(dim=(1, 2))
        converged = bool((largest > best * (1 - 1e-12)).all())
        best = torch.minimum(best, largest)
        if converged:
            break
        # Normalise against overflow, and keep the vectors positive, also for zero rows.
        vectors = (images / images.amax(dim=1, keepdim=True).clamp_min(1e-300)).clamp_min(1e-12)
    return up(float(best.max()) * (1 + matrices.shape[-1] * 4 * UNIT))


def orthogonality_bound(weight: Tensor, groups: int = 1) -> float:
    """Bound the norm of a nearly orthogonal convolution by the distance of its Gram operator from the identity.

    ||J||^2 <= 1 + ||J^T J - I||. J^T J - I is a convolution with the taps R_0 = C_0 - I and R_t = C_t (see
    `autocorrelation`). Its norm is at most ||R_0|| + 2 sqrt(T) || [R_1; ...; R_T] || for the T other offsets of a half
    plane. If J has fewer channels out than in, J J^T takes the place of J^T J.

    Args:
        weight: finite filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.

    Returns:
        The bound: 1 up to rounding for an orthogonal filter. For a filter that is far from orthogonal, it is
        `kernel_norm_bound`, if smaller, which is within some per cent of the norm.
    """
    exact = to_float64(weight.detach())
    narrow = adjoint_filter(exact, groups) if weight.shape[0] < weight.shape[1] * groups else exact
    taps = autocorrelation(narrow, groups)
    taps[0] -= torch.eye(taps.shape[-1], dtype=taps.dtype, device=taps.device)
    residual = gram_norm_bound(taps[0])
    if len(taps) > 1:
        residual += 2 * sqrt(len(taps) - 1) * gram_norm_bound(taps[1:].transpose(0, 1).flatten(1, 2))
    rounding = accumulated(_length(narrow, groups)) * absolute_filter_norm(narrow, groups) ** 2
    bound = up(sqrt(1 + residual + rounding))
    return min(bound, kernel_norm_bound(exact, groups, grid=16)) if residual > _LARGE_RESIDUAL else bound


def _length(weight: Tensor, groups: int) -> int:
    """Return the number of roundings of an entry of C_t."""
    return weight.shape[0] // groups * weight.shape[-2] * weight.shape[-1] + 1
