"""The frequency response of a convolution: its matrices at the frequencies of a circular feature map."""

from collections.abc import Iterable
from math import cos, pi, prod

import torch
from torch import Tensor

from lipnet.functional.constants import constant
from lipnet.functional.unit_roots import unit_roots


def frequency_response(weight: Tensor, size: tuple[int, int], groups: int = 1) -> Tensor:
    """Compute A(w) = sum_k L_k e^{i w k} at the frequencies w of a feature map, with the middle tap at the origin.

    A convolution with circular padding multiplies the Fourier transform of its maps by these matrices. The exponent
    has the sign of a correlation, which is what `F.conv2d` computes. For a skew filter, the matrices are
    skew-Hermitian. Half of the spectrum is enough, since A(-w) = conj(A(w)).

    Args:
        weight: filter (c_out, c/groups, kh, kw), odd kh and kw, real.
        size: H and W; if a map is smaller than the kernel, taps wrap around it.
        groups: number of groups.

    Returns:
        Complex (H, W // 2 + 1, groups, c_out/groups, c/groups), indexed (..., out, in).
    """
    dtype = torch.promote_types(weight.dtype, torch.complex32)
    (height, width), (kh, kw) = size, weight.shape[-2:]
    rows = _waves(kh, height, height, dtype=dtype, device=weight.device)
    columns = _waves(kw, width, width // 2 + 1, dtype=dtype, device=weight.device)
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).to(dtype)
    return torch.einsum("goiab,pa,qb->pqgoi", grouped, rows, columns).contiguous()


def room_beyond_grid(kernel_size: Iterable[int], points: int) -> float:
    """Bound the ratio of sup ||A(w)|| over all frequencies to the maximum over a grid: a factor of at least 1.

    Up to a phase, u* A(w) v is a function of exponential type r = (k - 1) / 2 in each variable. At a distance d from
    its maximum, it is still at least cos(r d) times the maximum, and some grid point is within pi / N.

    Args:
        kernel_size: numbers k of taps in each direction.
        points: N > k - 1, the number of equidistant frequencies in each direction.

    Source: theory of functions of exponential type (M. Riesz, Duffin & Schaeffer); Pfister & Bresler, arXiv 1802.09588.
    """
    # A list: torch.compile of torch 2.14.1 cannot trace a generator here.
    return 1 / prod([cos(pi * (taps - 1) / 2 / points) for taps in kernel_size])


@constant
def _waves(taps: int, length: int, points: int) -> Tensor:
    """Compute e^{i w k} for the taps k and the first ``points`` frequencies w of ``length`` pixels: (points, taps)."""
    return unit_roots(torch.outer(torch.arange(points), torch.arange(taps) - taps // 2), length)
