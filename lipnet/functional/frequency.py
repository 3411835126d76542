"""The frequency response of a convolution: its matrices at the frequencies of a circular feature map."""

from collections.abc import Iterable
from math import cos, pi, prod

import torch
from torch import Tensor

from lipnet.functional.constants import constant


def frequency_response(weight: Tensor, size: tuple[int, int], groups: int = 1) -> Tensor:
    """Compute A(w) = sum_k L_k e^{i w k} at the frequencies w of a feature map, with the middle tap at the origin.

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
    (height, width), (kh, kw) = size, weight.shape[-2:]
    rows = _waves(kh, height, height, dtype=dtype, device=weight.device)
    columns = _waves(kw, width, width // 2 + 1, dtype=dtype, device=weight.device)
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).to(dtype)
    return torch.einsum("goiab,pa,qb->pqgoi", grouped, rows, columns).contiguous()


def room_beyond_grid(kernel_size: Iterable[int], points: int) -> float:
    """Bound how many times sup ||A(w)|| over all frequencies can exceed the maximum over a grid: a factor above 1.

    In each variable, u* A(w) v has exponential type r = (k - 1) / 2 around its phase. It is at least cos(r d) times its
    maximum at a distance d from it, and some point of the grid is within pi / N.

    Args:
        kernel_size: numbers k of taps in each direction.
        points: N > k - 1, the number of equidistant frequencies in each direction.

    Source: theory of functions of exponential type (M. Riesz, Duffin & Schaeffer); Pfister & Bresler, arXiv 1802.09588.
    """
    return 1 / prod(cos(pi * (taps - 1) / 2 / points) for taps in kernel_size)


@constant
def _waves(taps: int, length: int, points: int) -> Tensor:
    """Compute e^{i w k} for the taps k and the first ``points`` frequencies w of ``length`` pixels: (points, taps)."""
    return torch.exp(2j * pi * torch.outer(torch.arange(points), torch.arange(taps) - taps // 2).double() / length)
