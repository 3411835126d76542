"""The norm of any convolution: a guaranteed bound, and a cheap estimate for the scale of a kernel in training.

`strided_kernel` turns a stride into channels first, so that both see a convolution of stride 1.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import inf, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.frequency import room_beyond_grid
from lipnet.functional.norm_estimates import start_vector
from lipnet.functional.rounding import BELOW_NORMAL, to_float64
from lipnet.functional.unit_roots import unit_roots

# Room for the rounding of frequency responses and norms.
_ROUNDING = 1 + 1e-10
_STEPS = 12
_SMALLEST_GROWTH = 5e-4
_MIXED_IN = 1e-3


class StridedKernel(NamedTuple):
    """A convolution of stride 1 on space-to-depth maps.

    Attributes:
        weight: kernel (c_out, c_in s t / groups, m, n).
        reach: largest distance, in rows and in columns, at which the kernel reads.
    """

    weight: Tensor
    reach: tuple[int, int]


def strided_kernel(weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> StridedKernel:
    """Return the kernel that computes a strided convolution on maps after space-to-depth, up to the order of channels.

    Tap a of a kernel with padding p reads pixel s u + a - p = s (u + m) + r: tap m of channel r.

    Args:
        weight: kernel (c_out, c_in / groups, kh, kw).
        stride: s and t.
        padding: of the convolution, for rows and columns.
    """
    margins, reach = [], []
    for taps, step, before in zip(weight.shape[-2:], stride, padding, strict=True):
        first, last = -before // step, (taps - 1 - before) // step
        margins.append((-before - step * first, step * (last + 1) - (taps - before)))
        reach.append(max(-first, last, 0))
    padded = F.pad(weight, (*margins[1], *margins[0]))
    outputs, inputs, rows, columns = padded.shape
    split = padded.view(outputs, inputs, rows // stride[0], stride[0], columns // stride[1], stride[1])
    return StridedKernel(split.permute(0, 1, 3, 5, 2, 4).flatten(1, 3), (reach[0], reach[1]))


def kernel_norm_bound(
    weight: Tensor, groups: int = 1, points: Sequence[int] | None = None, start: float = 0.0, grid: int = 32
) -> float:
    """Bound the norm of a convolution of stride 1 by its frequency response A(w) = sum_k L_k e^{i w k}.

    With ``points`` (N, M), the bound is the largest ||A(w)|| at the frequencies of circular maps of that size. It holds
    for such maps with circular padding. It also holds for maps with zero padding that are smaller by the kernel's
    reach: on the larger circular maps, the kernel does not wrap around from one end of them to the other.

    Without ``points``, it holds for maps of every size and both paddings: the supremum is at most
    `lipnet.functional.frequency.room_beyond_grid` times the maximum over a grid.

    Cholesky decompositions of b^2 I - A(w) A(w)* prove that ||A(w)|| < b. b grows in small steps until all succeed.

    Args:
        weight: kernel (c_out, c_in / groups, kh, kw) of any size.
        groups: number of groups.
        points: numbers of frequencies for rows and columns.
        start: a value near the norm, if one is known; the bound is at least this.
        grid: number of frequencies in each direction without ``points``, raised to four times the kernel's size if
            that is more. For a 3 x 3 kernel, the bound is within 1 % of the supremum for 32, and within 4 % for 16.

    Raises:
        ValueError: if there are fewer points than taps.
    """
    exact = to_float64(weight.detach())
    if not bool(exact.isfinite().all()):
        return inf
    # The norm is at most the sum of the taps' magnitudes. A rounded sum alone could lie below the exact one.
    magnitudes = exact.abs()
    if start >= float(magnitudes.sum()) and start >= sum(map(Fraction, magnitudes.flatten().tolist())):
        return start
    kernel = exact.shape[-2:]
    grid = max(grid, 4 * max(kernel))
    numbers = [1 if taps == 1 else grid for taps in kernel] if points is None else list(points)
    if any(number < taps for number, taps in zip(numbers, kernel, strict=True)):
        raise ValueError(f"points must be at least as many as taps {tuple(kernel)}, got {tuple(numbers)}")
    # A power of two, so that scaling is exact and no square overflows.
    exponent = min(max(int(torch.frexp(exact.abs().max()).exponent), -1000), 1000)
    grouped = (exact * 2.0**-exponent).view(groups, -1, *exact.shape[1:])
    bound = (start * 2.0**-exponent) ** 2
    for responses in _responses(grouped, numbers):
        gram = responses @ responses.mH if grouped.shape[1] <= grouped.shape[2] else responses.mH @ responses
        bound = _raised(gram, bound)
    # A decomposition that succeeds proves that no eigenvalue is below minus its rounding (Higham, Theorem 10.3). The
    # other term is the rounding of the Gram matrices.
    smaller, larger = sorted(grouped.shape[1:3])
    rounding = (16 * smaller * (smaller + 1) + 16 * smaller * larger) * torch.finfo(torch.float64).eps
    norm = sqrt(bound * (1 + rounding)) * _ROUNDING
    if points is None:
        norm *= room_beyond_grid(kernel, grid)
    return max(norm * 2.0**exponent + BELOW_NORMAL, start)


def _responses(grouped: Tensor, grid: list[int]) -> Iterator[Tensor]:
    """Yield A(w) for one row of frequencies after another, complex (points, groups, c_out / g, c_in / g).

    A(-w) is the conjugate of A(w), so that half of the frequencies are enough.
    """
    rows, columns = (
        unit_roots(torch.outer(torch.arange(number), torch.arange(taps)), number).to(grouped.device)
        for number, taps in zip(grid, grouped.shape[-2:], strict=True)
    )
    for row in rows[: grid[0] // 2 + 1]:
        along = torch.einsum("goiab,a->goib", grouped.to(row.dtype), row)
        yield torch.einsum("goib,qb->qgoi", along, columns)


def _raised(gram: Tensor, bound: float) -> float:
    """Return a number >= bound that exceeds all eigenvalues of the matrices (..., n, n), by Cholesky decompositions."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    vectors = torch.linspace(1, 2, gram.shape[-1], dtype=torch.float64).to(gram).view(-1, 1).expand(*gram.shape[:-1], 1)
    growth = 0.0
    while torch.linalg.cholesky_ex(bound * identity - gram).info.any():
        for _ in range(_STEPS):
            vectors = F.normalize(gram @ vectors, dim=-2, eps=torch.finfo(torch.float64).tiny)
        bound = max(bound, float((gram @ vectors).norm(dim=-2).max()))
        # Grow faster each time, in case the power iteration has missed the largest eigenvalue.
        growth = 2 * growth or _SMALLEST_GROWTH
        bound = bound * (1 + growth) + 1e-300
    return bound


def kernel_norm_estimate(weight: Tensor, vector: Tensor, groups: int = 1, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the norm of a circular convolution from below, and return the advanced vector, detached.

    The estimate is ||J v|| after some steps v <- J^T J v, or ||L||_F / sqrt(min(c_out, c_in)) if that is more: no norm
    is below it. The estimate is differentiable in the kernel L, with v held fixed.

    Args:
        weight: kernel (c_out, c_in / groups, kh, kw).
        vector: v, maps (1, c_in, N, M), N >= kh, M >= kw.
        groups: number of groups.
        steps: of power iteration.
    """
    adjoint = weight.detach().view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flip(-2, -1)
    before = [taps // 2 for taps in weight.shape[-2:]]
    after = [taps - 1 - left for taps, left in zip(weight.shape[-2:], before, strict=True)]
    with torch.no_grad():
        vector = _unit(vector)
        if steps:
            # A share of a fixed vector keeps every direction visible.
            fixed = start_vector(*vector.shape[1:], dtype=vector.dtype, device=vector.device)
            vector = _unit(vector + _MIXED_IN * fixed)
        for _ in range(steps):
            image = _unit(_circular(vector, weight, before, after, groups))
            vector = _unit(_circular(image, adjoint, after, before, groups))
    estimate = _circular(vector, weight, before, after, groups).norm()
    rank = min(len(weight), weight.shape[1] * groups)
    return torch.maximum(estimate, weight.norm() / sqrt(rank)), vector


def _circular(maps: Tensor, weight: Tensor, before: list[int], after: list[int], groups: int) -> Tensor:
    padded = F.pad(maps, (before[1], after[1], before[0], after[0]), mode="circular")
    return F.conv2d(padded, weight, groups=groups)


def _unit(vector: Tensor) -> Tensor:
    """Return the vector with norm 1, and with zeros in place of numbers that are not finite."""
    finite = vector.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    length: Tensor = finite.norm()
    return finite / length.clamp_min(torch.finfo(finite.dtype).tiny)
