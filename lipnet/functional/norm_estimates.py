"""Estimates of norms **from below**, by power iteration and Lanczos, for the scale of a filter in training.

They converge to the norm but may fall short of it, so no guarantee may use them: `lipnet.functional.norm_bounds`
bounds the scaled filter afterwards.
"""

from math import prod, sqrt

import torch
from torch import Tensor

from lipnet.functional.constants import constant


def jacobian_norm(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ||J v|| for each group, an estimate of ||J|| from below, and J v / ||J v|| for the next step.

    J is the circular convolution on feature maps of the vectors' size, computed as one matrix product. The singular
    values of a skew J come in pairs, so repeated steps converge in norm; their signs do not matter.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        vectors: feature maps (groups, c/groups, N, N) of norm 1 each; N at least kh and kw, or 1 if those are 1.

    Returns:
        The norms (groups,), differentiable in the filter, and new vectors, detached. Where J v is 0 or not finite, the
        old vectors are returned.
    """
    images = weight.reshape(*vectors.shape[:2], -1) @ circular_patches(vectors, weight)
    norms = images.flatten(1).norm(dim=1)
    with torch.no_grad():
        return norms, next_vectors(images, norms, vectors)


def circular_patches(vectors: Tensor, weight: Tensor) -> Tensor:
    """Gather the pixels that each filter tap reads from circular maps (groups, m, N, N): (groups, m kh kw, N N)."""
    groups, channels, height, width = vectors.shape
    kernel_size = (weight.shape[-2], weight.shape[-1])
    pixels = _pixels_of_taps((height, width), kernel_size, dtype=torch.int64, device=vectors.device)
    return vectors.flatten(2).index_select(2, pixels).view(groups, channels * prod(kernel_size), height * width)


@constant
def _pixels_of_taps(size: tuple[int, int], kernel_size: tuple[int, int]) -> Tensor:
    """Return the index of the pixel that each tap reads at each position of a circular map: (kh kw H W,)."""
    rows, columns = (
        (torch.arange(taps).view(-1, 1) - taps // 2 + torch.arange(length)) % length
        for taps, length in zip(kernel_size, size, strict=True)
    )
    return (rows[:, None, :, None] * size[1] + columns[None, :, None, :]).flatten()


def next_vectors(images: Tensor, norms: Tensor, vectors: Tensor) -> Tensor:
    """Return J v / ||J v|| in the shape of v, or v itself where J v is 0 or not finite."""
    lengths = norms.view(-1, 1, 1)
    usable = (lengths > 0) & (lengths <= torch.finfo(lengths.dtype).max)
    return torch.where(usable, images / lengths, vectors.flatten(2)).view_as(vectors)


def start_vectors(groups: int, channels: int, points: int, like: Tensor) -> Tensor:
    """Return the vectors cos(n sqrt(2)), scaled to norm 1, to which hardly any filter is orthogonal.

    Their shape is (groups, channels, points, points), their dtype and device are those of ``like``.
    """
    return _start_vector(channels, points, dtype=like.dtype, device=like.device).expand(groups, -1, -1, -1)


@constant
def _start_vector(channels: int, points: int) -> Tensor:
    numbers = torch.arange(1, channels * points * points + 1, dtype=torch.float64)
    return torch.nn.functional.normalize((numbers * sqrt(2)).cos(), dim=0).view(1, channels, points, points)


def top_vectors(weight: Tensor, groups: int, points: int, steps: int = 32) -> Tensor:
    """Find vectors that nearly maximise `jacobian_norm`, from the filter alone, by the Lanczos process.

    J q_k = b_k q_{k+1} - b_{k-1} q_{k-1} with orthonormal q_k turns a skew J into a small skew tridiagonal matrix,
    whose top singular vector is carried back. Deterministic.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        groups: number of groups.
        points: N, the height and width of the feature maps.
        steps: dimension of the Krylov space.

    Returns:
        (groups, c/groups, N, N), of norm 1.
    """
    weight = weight.detach()
    current = start_vectors(groups, weight.shape[1], points, weight)
    basis: list[Tensor] = [current]
    lengths: list[Tensor] = []
    for _ in range(steps - 1):
        norms, image = jacobian_norm(weight, current)
        residual = image * norms.view(-1, 1, 1, 1)
        if lengths:
            residual = residual + basis[-2] * lengths[-1].view(-1, 1, 1, 1)
        length = residual.flatten(1).norm(dim=1)
        # At length 0 an invariant subspace is complete: all later vectors are zero, and the matrix decouples.
        current = torch.where((length > 0).view(-1, 1, 1, 1), residual / length.view(-1, 1, 1, 1), 0.0)
        basis.append(current)
        lengths.append(length)
    return _ritz_vectors(torch.stack(basis, dim=1), torch.stack(lengths, dim=1))


def _ritz_vectors(basis: Tensor, lengths: Tensor) -> Tensor:
    """Combine the basis (groups, steps, ...) to the top singular vectors of the skew tridiagonal matrices, norm 1."""
    matrices = torch.diag_embed(lengths, offset=-1) - torch.diag_embed(lengths, offset=1)
    finite = matrices.isfinite().flatten(1).all(dim=1)
    right = torch.linalg.svd(torch.where(finite[:, None, None], matrices, 0.0))[2][:, 0]
    combined = torch.einsum("gk,gkchw->gchw", right, basis)
    length = combined.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.where(length.isfinite() & (length > 0), combined / length, basis[:, 0])


def power_iteration(matrices: Tensor, vectors: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the largest singular values of matrices (g, m, n) **from below**, starting from right vectors (g, n).

    Returns:
        The estimates (g,), differentiable in the matrices with the singular vectors held fixed, and the new right
        vectors. An estimate is never below ||A||_F / sqrt(min(m, n)), whatever the start: a start vector that is zero,
        or orthogonal to the top singular vectors, cannot make a matrix look small.
    """
    with torch.no_grad():
        # The largest row, which is never orthogonal to all rows, replaces vectors that are zero or not finite.
        usable = vectors.isfinite().all(dim=-1, keepdim=True) & (vectors != 0).any(dim=-1, keepdim=True)
        largest = matrices.norm(dim=-1).argmax(dim=-1)
        right = torch.where(usable, vectors, matrices.take_along_dim(largest[:, None, None], dim=1).squeeze(1))
        for _ in range(steps):
            left = _normalize((matrices @ right.unsqueeze(-1)).squeeze(-1))
            right = _normalize((left.unsqueeze(-2) @ matrices).squeeze(-2))
    estimate = (left.unsqueeze(-2) @ matrices @ right.unsqueeze(-1)).flatten()
    floor = torch.linalg.matrix_norm(matrices) / sqrt(min(matrices.shape[-2:]))
    return torch.maximum(estimate, floor), right


def _normalize(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)
