"""Estimates of norms **from below**, by power iteration, for the scale of a filter.

They converge to the norm but may fall short of it, so no guarantee may use them: `lipnet.functional.norm_bounds`
bounds the scaled filter afterwards.
"""

from math import prod, sqrt

import torch
from torch import Tensor

from lipnet.functional.constants import constant
from lipnet.functional.frequency import frequency_response

# Effort of `top_vectors`, chosen on random filters and on filters with a dominant direction. In groups of at most
# _EXACT_CHANNELS channels, eigenvalues at all frequencies cost less than Chebyshev filters.
_EXACT_CHANNELS = 32
_PLAIN_STEPS = 4
_FILTERS = 3
_DEGREE = 6


def jacobian_norm(weight: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ||J v|| for each group, an estimate of ||J|| from below, and J v / ||J v|| for the next step.

    J is the circular convolution on feature maps of the vectors' size, computed as one matrix product. With repeated
    steps, the norms converge. The vectors need not, since the singular values of a skew J come in pairs.

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
    """Return `start_vector` for each group, (groups, channels, points, points), in the dtype and device of ``like``.

    Hardly any filter maps it to 0.
    """
    return start_vector(channels, points, points, dtype=like.dtype, device=like.device).expand(groups, -1, -1, -1)


@constant
def start_vector(channels: int, height: int, width: int) -> Tensor:
    """Return the vector cos(n sqrt(2)), n = 1, 2, ..., scaled to norm 1, as maps (1, channels, height, width)."""
    numbers = torch.arange(1, channels * height * width + 1, dtype=torch.float64)
    return torch.nn.functional.normalize((numbers * sqrt(2)).cos(), dim=0).view(1, channels, height, width)


def top_vectors(weight: Tensor, groups: int, points: int) -> Tensor:
    """Compute vectors that nearly maximise `jacobian_norm`, from the filter alone.

    The result is deterministic, and rounding of the filter hardly changes the norm. For groups of few channels, the
    vectors are exact, from eigenvectors of the frequency responses. For others, Chebyshev polynomials of J^T J amplify
    its largest eigenvalues, and the norm falls short by about half a per cent. The Lanczos process would need fewer
    products, but before it has converged, it amplifies rounding of the filter to 1e-4 of the norm.

    Args:
        weight: skew filter (c, c/groups, kh, kw).
        groups: number of groups.
        points: N, the height and width of the feature maps.

    Returns:
        (groups, c/groups, N, N), of norm 1.
    """
    weight = weight.detach()
    vectors = start_vectors(groups, weight.shape[1], points, weight)
    if weight.shape[1] <= _EXACT_CHANNELS:
        return _top_eigenvectors(weight, groups, vectors)
    for _ in range(_PLAIN_STEPS):
        _, vectors = jacobian_norm(weight, vectors)
    for _ in range(_FILTERS):
        vectors = _chebyshev_filter(weight, vectors)
    return vectors


def refined_vectors(weight: Tensor, groups: int, vectors: Tensor) -> Tensor:
    """Bring vectors closer to those that maximise `jacobian_norm`, at a third of the cost of `top_vectors`.

    Args:
        weight, groups: as for `top_vectors`.
        vectors: (groups, c/groups, N, N) of norm 1. Groups of few channels use them only if the filter is 0 or not
            finite, since their vectors are exact.
    """
    weight = weight.detach()
    if weight.shape[1] <= _EXACT_CHANNELS:
        return _top_eigenvectors(weight, groups, vectors)
    return _chebyshev_filter(weight, vectors)


def _chebyshev_filter(weight: Tensor, vectors: Tensor) -> Tensor:
    """Return T_n(2 J^T J / s^2 - 1) v, scaled to norm 1, with s = ||J v||.

    The Chebyshev polynomial T_n stays within [-1, 1] for singular values up to s, and grows fast beyond.
    """
    norms, image = jacobian_norm(weight, vectors)

    def step(maps: Tensor, image: Tensor | None = None) -> Tensor:
        """Compute (2 J^T J / s^2 - 1) maps; ``image`` is J maps / s if it is known."""
        image = _apply(weight, maps) / scale if image is None else image
        return _apply(weight, image) * (-2 / scale) - maps

    scale = norms.clamp_min(torch.finfo(norms.dtype).tiny).view(-1, 1, 1, 1)
    previous, current = vectors, step(vectors, image)
    for _ in range(_DEGREE - 1):
        previous, current = current, 2 * step(current) - previous
    lengths = current.flatten(1).norm(dim=1)
    return next_vectors(current.flatten(2), lengths, vectors)


def _apply(weight: Tensor, maps: Tensor) -> Tensor:
    """Compute J of circular maps (groups, m, N, N)."""
    return (weight.reshape(*maps.shape[:2], -1) @ circular_patches(maps, weight)).view_as(maps)


def _top_eigenvectors(weight: Tensor, groups: int, start: Tensor) -> Tensor:
    """Return maps (groups, m, N, N) on which the largest eigenvalue of each group's frequency responses is attained."""
    points = start.shape[-1]
    # i A(w) is Hermitian. Frequencies and groups: (N, N // 2 + 1, groups, m, m).
    hermitian = 1j * frequency_response(weight, (points, points), groups)
    # eigvalsh and eigh raise an error for matrices that are not finite.
    finite = hermitian.isfinite().flatten(3).all(dim=3).flatten(0, 1).all(dim=0)
    hermitian = torch.where(finite.view(-1, 1, 1), hermitian, 0.0)
    moduli = torch.linalg.eigvalsh(hermitian).abs().amax(dim=-1).flatten(0, 1)
    frequency, group = moduli.argmax(dim=0), torch.arange(groups, device=weight.device)
    eigenvalues, eigenvectors = torch.linalg.eigh(hermitian.flatten(0, 1)[frequency, group])
    top = eigenvectors[group, :, eigenvalues.abs().argmax(dim=-1)]
    # The inverse transform of a unit is the wave e^{i w x} of that frequency. J maps its real part to the imaginary
    # part times the eigenvalue, and both have the same norm unless the eigenvalue is 0.
    width = points // 2 + 1
    phase = torch.zeros(groups, points, points, dtype=top.dtype, device=top.device)
    phase[group, frequency // width, frequency % width] = points**2
    maps = (top[..., None, None] * torch.fft.ifft2(phase).unsqueeze(1)).real
    lengths = maps.flatten(1).norm(dim=1)
    return next_vectors(maps.flatten(2), torch.where(finite, lengths, 0.0), start)


def power_iteration(matrices: Tensor, vectors: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the largest singular values of matrices (g, m, n) **from below**, by power iteration.

    Args:
        matrices: (g, m, n).
        vectors: right vectors to start from, (g, n).
        steps: at least 1.

    Returns:
        The estimates (g,), differentiable in the matrices with the vectors held fixed, and the new right vectors. An
        estimate is never below ||A||_F / sqrt(min(m, n)), whatever the start: a start vector that is zero,
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
