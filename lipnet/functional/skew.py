"""Skew filters: the part of a convolution filter whose Jacobian is skew-symmetric."""

from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor

# Filters with at least this many entries are transposed in blocks that stay in the processor's cache.
_LARGE = 2**20
_BLOCK = 2**17


def adjoint_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """Return the adjoint filter T(M)[o, i, a, b] = M[i, o, kh-1-a, kw-1-b], in every group separately.

    For odd kh and kw, the 'same' convolutions with T(M) and M have transposed matrices.

    Args:
        weight: M, (c_out, c_in/groups, kh, kw).
        groups: number of groups of the convolution.

    Returns:
        T(M), (c_in, c_out/groups, kh, kw), in new memory.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021.
    """
    return _grouped(weight, groups).transpose(1, 2).flip(-2, -1).flatten(0, 1)


def skew_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """Return (M - T(M)) / 2, whose 'same' convolution has a skew-symmetric Jacobian.

    J^T = -J holds exactly for zero and for circular padding with stride 1 and dilation 1, so exp(J) is orthogonal.
    Taking the skew part is an orthogonal projection, so the backward pass takes the skew part of the gradient.

    Args:
        weight: any filter (c, c/groups, kh, kw) with odd kh and kw.
        groups: number of groups of the convolution.

    Returns:
        The skew part of ``weight``, of the same shape.

    Example:
        >>> skew_filter(torch.tensor([[0.0, 2.0], [0.0, 0.0]]).view(2, 2, 1, 1)).flatten(1)
        tensor([[ 0.,  1.],
                [-1.,  0.]])
    """
    skew: Tensor = _SkewPart.apply(weight, groups)
    return skew


def half_filter(weight: Tensor, groups: int = 1) -> Tensor:
    """Return the filter U with the skew part of M in which only half of the entries are used; not differentiable.

    Of two entries that T exchanges, the first in memory becomes their difference and the second zero. An entry that T
    leaves in place has no effect and becomes zero, too.

    Args:
        weight: M, (c, c/groups, kh, kw) with odd kh and kw.
        groups: number of groups of the convolution.

    Returns:
        U, of the same shape, with U - T(U) = M - T(M).

    Example:
        >>> half_filter(torch.tensor([[5.0, 2.0], [3.0, 5.0]]).view(2, 2, 1, 1)).flatten(1)
        tensor([[ 0., -1.],
                [ 0.,  0.]])
    """
    places = torch.arange(weight.numel(), device=weight.device).view(weight.shape)
    return minus_adjoint(weight, groups).where(places < adjoint_filter(places, groups), 0)


def minus_adjoint(weight: Tensor, groups: int = 1, *, in_place: bool = False) -> Tensor:
    """Return M - T(M), twice the skew part; not differentiable.

    On the CPU, large filters are transposed block by block, so that the blocks stay in the processor's cache.

    Args:
        weight: M, (c, c/groups, kh, kw).
        groups: number of groups of the convolution.
        in_place: allow the result to overwrite M.
    """
    grouped = _grouped(weight, groups)
    if weight.numel() < _LARGE or weight.device.type != "cpu" or torch.compiler.is_compiling():
        adjoint = _adjoint(grouped)
        # The adjoint of a 1 x 1 filter is a view of it, which a subtraction in place would corrupt.
        overwrite = in_place and weight.shape[-2:] != (1, 1)
        return (grouped.sub_(adjoint) if overwrite else grouped - adjoint).reshape(weight.shape)
    result = grouped if in_place else torch.empty_like(grouped, memory_format=torch.contiguous_format)
    length = max(1, isqrt(_BLOCK // prod(weight.shape[-2:])))
    blocks = [slice(start, start + length) for start in range(0, grouped.shape[1], length)]
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            difference = grouped[:, rows, columns] - _adjoint(grouped[:, columns, rows])
            result[:, rows, columns] = difference
            if columns != rows:
                torch.neg(_adjoint(difference), out=result[:, columns, rows])
    return result.view(weight.shape)


def _grouped(weight: Tensor, groups: int) -> Tensor:
    """Return a view (groups, o, i, kh, kw)."""
    return weight.reshape(groups, len(weight) // groups, *weight.shape[1:])


def _adjoint(grouped: Tensor) -> Tensor:
    """Apply T in each group of (groups, o, i, kh, kw); a view for 1 x 1 kernels."""
    transposed = grouped.transpose(1, 2)
    return transposed if transposed.shape[-2:] == (1, 1) else transposed.flip(-2, -1)


class _SkewPart(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, groups: int) -> Tensor:
        doubled = minus_adjoint(weight, groups)
        # torch 2.11 compiles a zero gradient if the result has been changed in place.
        return doubled / 2 if torch.compiler.is_compiling() else doubled.div_(2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.groups = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return skew_filter(gradient, ctx.groups), None
