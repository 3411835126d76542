"""Norms of convolutions: exact norms of reshaped filters, certified upper bounds, and a cheap estimate for training.

A bound here holds for the 'same' convolution with the filter on maps of every size, with zero or circular padding. The
estimate converges from below, so nothing that is guaranteed may rest on it.
"""

from math import cos, inf, isfinite, pi, prod, sqrt

import torch
from torch import Tensor

from lipnet.functional.constants import constant

# Room for the rounding of a float64 eigenvalue or singular value decomposition.
_ROUNDING = 1 + 1e-10
# Steps of power iteration before a bound is tried: the better the guess, the fewer Cholesky decompositions. After a few
# with all matrices, those that look largest go on.
_STEPS_OF_ALL = 8
_STEPS_TO_A_GUESS = 30
_CANDIDATES = 16


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


def spectral_norm_bound(matrix: Tensor) -> float:
    """Upper bound on the norm of a matrix (m, n), by its largest singular value; infinite if it is not finite."""
    exact = matrix.detach().double()
    if not bool(exact.isfinite().all()):
        return inf
    return float(torch.linalg.matrix_norm(exact, ord=2)) * _ROUNDING


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

    The norm is at most the supremum over all frequencies w of ||A(w)||, A(w) = sum_k L_k e^{i w k}. In each variable
    that is at most its maximum on ``grid`` equidistant points over cos(pi r / grid), with r = (k - 1) / 2. Within 4 %
    for k = 3 and 16 points.

    i A(w) is Hermitian. That its eigenvalues lie within (-b, b) is proved by Cholesky decompositions of b I + i A(w)
    and b I - i A(w), for the smallest b, in steps of half a per cent, for which they all exist.

    Args:
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw.
        groups: number of groups.
        grid: number of frequencies in each direction, more than kh - 1 and kw - 1.

    Raises:
        ValueError: if the grid is too coarse for the kernel.

    Source: theory of trigonometric polynomials (M. Riesz); Pfister & Bresler, arXiv 1802.09588. A Cholesky
    decomposition that runs to its end: Rump, "Verification of positive definiteness", BIT 2006.
    """
    kernel = weight.shape[-2:]
    if grid <= max(kernel) - 1:
        raise ValueError(f"grid must exceed {max(kernel) - 1} for a kernel {tuple(kernel)}, got {grid}")
    if not bool(weight.isfinite().all()):
        return inf
    response = frequency_response(weight.double(), (grid, grid) if max(kernel) > 1 else (1, 1), groups)
    hermitian = (1j * response).flatten(0, -3)
    largest = _verified_eigenvalue_bound(hermitian)
    if max(kernel) > 1:
        largest /= prod(cos(pi * (k - 1) / 2 / grid) for k in kernel)
    return largest * _ROUNDING


def _verified_eigenvalue_bound(hermitian: Tensor) -> float:
    """b such that all eigenvalues of the matrices (N, n, n) have modulus at most b."""
    n = hermitian.shape[-1]
    start = torch.linspace(1, 2, n, dtype=torch.float64).to(hermitian)
    vectors = start.expand(len(hermitian), n).unsqueeze(-1)
    vectors, lengths = _powers(hermitian, vectors, _STEPS_OF_ALL)
    candidates = lengths.topk(min(_CANDIDATES, len(lengths))).indices
    lengths = _powers(hermitian[candidates], vectors[candidates], _STEPS_TO_A_GUESS)[1]
    bound = float(lengths.max()) * 1.001 + torch.finfo(torch.float64).tiny
    identity = torch.eye(n, dtype=hermitian.dtype, device=hermitian.device)
    # What a decomposition that exists proves: eigenvalues above minus its rounding (Higham, Theorem 10.3).
    rounding = 16 * n * (n + 1) * torch.finfo(torch.float64).eps
    while not all(_positive_definite(bound * identity + sign * hermitian) for sign in (1, -1)):
        bound *= 1.005
    return bound * (1 + rounding)


def _powers(hermitian: Tensor, vectors: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Vectors (N, n, 1) after steps of power iteration, and how much longer (N,) one more makes them."""
    for _ in range(steps):
        vectors = torch.nn.functional.normalize(hermitian @ vectors, dim=1, eps=torch.finfo(torch.float64).tiny)
    return vectors, (hermitian @ vectors).norm(dim=1).squeeze(1)


def _positive_definite(matrices: Tensor) -> bool:
    return not bool(torch.linalg.cholesky_ex(matrices).info.any())


def frequency_response(weight: Tensor, size: tuple[int, int], groups: int = 1) -> Tensor:
    """A(w) = sum_k L_k e^{i w k} at the frequencies of maps of one size, with the middle tap at the origin.

    With circular padding these matrices are the convolution itself: the sign is that of a correlation, as `F.conv2d`
    computes it. For a skew filter they are skew-Hermitian. Half of the spectrum is enough, as A(-w) is conj(A(w)).

    Args:
        weight: filter (c, c/groups, kh, kw), odd kh and kw, real.
        size: H and W; taps beyond a smaller map wrap around.
        groups: number of groups.

    Returns:
        Complex (H, W // 2 + 1, groups, c/groups, c/groups), indexed (..., out, in).
    """
    dtype = torch.promote_types(weight.dtype, torch.complex32)
    rows, columns = (
        _waves(taps, length, points, dtype=dtype, device=weight.device)
        for taps, length, points in (
            (weight.shape[-2], size[0], size[0]),
            (weight.shape[-1], size[1], size[1] // 2 + 1),
        )
    )
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).to(rows.dtype)
    return torch.einsum("goiab,pa,qb->pqgoi", grouped, rows, columns).contiguous()


@constant
def _waves(taps: int, length: int, points: int) -> Tensor:
    """e^{i w k} for the first points of the frequencies w of so many pixels, and the taps k: (points, taps)."""
    return torch.exp(2j * pi * torch.outer(torch.arange(points), torch.arange(taps) - taps // 2).double() / length)


def jacobian_norm(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """||J v|| of each group, from below an estimate of ||J||, and J v / ||J v||, with which to go on.

    J is the circular convolution on the vectors' maps, as one matrix product. A skew J has its singular values in
    pairs, so that repeated steps converge in norm whatever the signs.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        vectors: maps (groups, c/groups, N, N) of norm 1 each; N at least as large as kh and kw, or 1 if those are.

    Returns:
        The norms (groups,), differentiable in the filter, and new vectors, detached; where J v is 0 or not finite the
        old ones.
    """
    images = weight.reshape(*vectors.shape[:2], -1) @ circular_patches(vectors, weight)
    norms = images.flatten(1).norm(dim=1)
    with torch.no_grad():
        return norms, next_vectors(images, norms, vectors)


def circular_patches(vectors: Tensor, weight: Tensor) -> Tensor:
    """What each tap of the filter sees of periodic maps (groups, m, N, N): (groups, m kh kw, N N)."""
    groups, channels, *size = vectors.shape
    kernel_size = (weight.shape[-2], weight.shape[-1])
    seen = _seen(tuple(size), kernel_size, dtype=torch.int64, device=vectors.device)
    return vectors.flatten(2).index_select(2, seen).view(groups, channels * prod(kernel_size), prod(size))


@constant
def _seen(size: tuple[int, int], kernel_size: tuple[int, int]) -> Tensor:
    """The pixel that each tap sees at each pixel of a periodic map: (kh kw H W,)."""
    rows, columns = (
        (torch.arange(taps).view(-1, 1) - taps // 2 + torch.arange(length)) % length
        for taps, length in zip(kernel_size, size, strict=True)
    )
    return (rows[:, None, :, None] * size[1] + columns[None, :, None, :]).flatten()


def next_vectors(images: Tensor, norms: Tensor, vectors: Tensor) -> Tensor:
    """J v / ||J v|| of the shape of v, and v itself where J v is 0 or not finite."""
    lengths = norms.view(-1, 1, 1)
    usable = (lengths > 0) & (lengths <= torch.finfo(lengths.dtype).max)
    return torch.where(usable, images / lengths, vectors.flatten(2)).view_as(vectors)


def start_vectors(groups: int, channels: int, points: int, like: Tensor) -> Tensor:
    """Vectors (groups, channels, points, points) of norm 1 that hardly any filter is orthogonal to: cos(n sqrt(2))."""
    return _start_vector(channels, points, dtype=like.dtype, device=like.device).expand(groups, -1, -1, -1)


@constant
def _start_vector(channels: int, points: int) -> Tensor:
    numbers = torch.arange(1, channels * points * points + 1, dtype=torch.float64)
    return torch.nn.functional.normalize((numbers * sqrt(2)).cos(), dim=0).view(1, channels, points, points)


def top_vectors(weight: Tensor, groups: int, points: int, steps: int = 32) -> Tensor:
    """Vectors at which `jacobian_norm` is nearly largest, from the filter alone, by the Lanczos process.

    J q_k = b_k q_{k+1} - b_{k-1} q_{k-1} with orthonormal q_k turns a skew J into a small skew tridiagonal matrix,
    whose top singular vector is carried back. Deterministic.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        groups: number of groups.
        points: N, the maps' height and width.
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
        # An invariant subspace is found: what follows is zero, and the matrix decouples.
        current = torch.where((length > 0).view(-1, 1, 1, 1), residual / length.view(-1, 1, 1, 1), 0.0)
        basis.append(current)
        lengths.append(length)
    return _ritz_vectors(torch.stack(basis, dim=1), torch.stack(lengths, dim=1))


def _ritz_vectors(basis: Tensor, lengths: Tensor) -> Tensor:
    """The top singular vector of the skew tridiagonal matrices in the basis (groups, steps, ...), of norm 1."""
    matrices = torch.diag_embed(lengths, offset=-1) - torch.diag_embed(lengths, offset=1)
    finite = matrices.isfinite().flatten(1).all(dim=1)
    right = torch.linalg.svd(torch.where(finite[:, None, None], matrices, 0.0))[2][:, 0]
    combined = torch.einsum("gk,gkchw->gchw", right, basis)
    length = combined.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.where(length.isfinite() & (length > 0), combined / length, basis[:, 0])


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
