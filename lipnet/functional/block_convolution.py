"""Orthogonal convolution kernels as products of small ones: block convolution (BCOP) and its strided form (AOC)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.kernel_norms import strided_kernel


def orthogonal_kernel(first: Tensor, bases: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Multiply an orthogonal 1 x 1 convolution by factors P + (I - P) z, each of which adds one tap in one direction.

    z is the shift by one pixel, and P = U U^T projects onto a subspace, so every factor is orthogonal. Every second
    factor in a direction is P z + (I - P), which keeps the kernel centred for subspaces of any dimension.

    Args:
        first: (groups, c, m) with m <= c, orthonormal columns: the 1 x 1 convolution.
        bases: U, (kh - 1 + kw - 1, groups, c, r) with orthonormal columns, alternately for rows and for columns.
        kernel_size: (kh, kw).

    Returns:
        Kernel (groups c, m, kh, kw) of a convolution J with J^T J = I; differentiable. If the operands only have norms
        of at most 1, then ||J|| <= 1.

    Source: Li et al., "Preventing gradient attenuation in Lipschitz constrained convolutional networks", NeurIPS 2019
    (arXiv 1911.00937); Xiao et al., ICML 2018.
    """
    directions = [
        (step, axis) for step in range(max(kernel_size) - 1) for axis in (0, 1) if step < kernel_size[axis] - 1
    ]
    kernel = first[:, :, None, None]  # (groups, c, rows, columns, m)
    for (step, axis), basis in zip(directions, bases, strict=True):
        flat = kernel.flatten(2)
        inside = (basis @ (basis.mT @ flat)).view(kernel.shape)
        outside = kernel - inside
        parts = (inside, outside) if step % 2 == 0 else (outside, inside)
        # Padding counts from the last dimension: m, columns, rows.
        before, after = (0, 0, *(0, 0) * (1 - axis), 1, 0), (0, 0, *(0, 0) * (1 - axis), 0, 1)
        kernel = F.pad(parts[0], after) + F.pad(parts[1], before)
    return kernel.permute(0, 1, 4, 2, 3).flatten(0, 1)


def with_stride(reduction: Tensor, kernel: Tensor, groups: int = 1) -> Tensor:
    """Return the kernel of a convolution with stride 1 followed by one with a stride, as one strided convolution.

    Args:
        reduction: kernel of the second convolution, (c_out, c/groups, s, t).
        kernel: of the first one, (c, c_in/groups, kh, kw).
        groups: number of groups of both.

    Returns:
        (c_out, c_in/groups, kh + s - 1, kw + t - 1); differentiable.
    """
    s, t = reduction.shape[-2:]
    matrices = reduction.reshape(groups, -1, *reduction.shape[1:])
    flat = kernel.reshape(groups, matrices.shape[2], -1)
    products = torch.einsum("goiab,gin->abgon", matrices, flat).reshape(s, t, len(reduction), *kernel.shape[1:])
    shifted = [F.pad(products[a, b], (b, t - 1 - b, a, s - 1 - a)) for a in range(s) for b in range(t)]
    return torch.stack(shifted).sum(dim=0)


def without_stride(weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Tensor:
    """Return a filter of stride 1, for maps after `space_to_depth`, with the norm of a strided convolution.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        stride: (s, t).
        dilation: of the filter. Without a stride, it does not change the norm: it turns A(w) into A(d w).

    Returns:
        Filter (c_out, c_in/groups s t, rows, columns); ``weight`` itself if the stride is 1.
    """
    if stride == (1, 1):
        return weight
    sizes = [d * (k - 1) + 1 for k, d in zip(weight.shape[-2:], dilation, strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *sizes)
    spread[..., :: dilation[0], :: dilation[1]] = weight
    return strided_kernel(spread, stride, (0, 0)).weight
