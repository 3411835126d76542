"""Sorting of pairs, the core of norm-preserving activations."""

from typing import Any

import torch
from torch import Tensor

from lipnet.functional.transforms import is_ordinary

# Integers of the same size, as which numbers are exchanged.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def sort_pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the larger and the smaller of each pair of entries.

    The Jacobian is a permutation everywhere. In a tie, each result takes the gradient of one input; ``torch.maximum``
    and ``torch.minimum`` would give half of it to each, and lose norm. The backward pass saves one boolean per pair and
    no input. Forward-mode differentiation and ``torch.func.vmap`` work.

    Args:
        first, second: tensors of the same shape.

    Returns:
        max(first, second) and min(first, second).
    """
    # torch.compile (2.14) cannot trace a function that defines a jvp.
    function = _SortPairs if torch.compiler.is_compiling() else _SortPairsWithJvp
    larger, smaller, _ = function.apply(first, second)
    return larger, smaller


class _SortPairs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.maximum(first, second), torch.minimum(first, second), first >= second

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        in_order = output[2]
        ctx.mark_non_differentiable(in_order)
        ctx.save_for_backward(in_order)
        ctx.save_for_forward(in_order)

    @staticmethod
    def backward(ctx: Any, larger: Tensor, smaller: Tensor, _: Any) -> tuple[Tensor, Tensor]:
        (in_order,) = ctx.saved_tensors
        return exchange(in_order, larger, smaller)


class _SortPairsWithJvp(_SortPairs):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, None]:
        (in_order,) = ctx.saved_tensors
        return (*exchange(in_order, first, second), None)


def exchange(in_order: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange the entries of two tensors where ``in_order`` is False; differentiable in the two tensors.

    Args:
        in_order: booleans of the tensors' shape.
        first, second: tensors of the same shape and dtype.
    """
    # On the CPU, ``torch.where`` does not use the processor's vector instructions, and takes ten times as long.
    if first.device.type == "cpu" and first.dtype == second.dtype and is_ordinary(first) and is_ordinary(second):
        exchanged: tuple[Tensor, Tensor] = _Exchange.apply(in_order, first, second)
        return exchanged
    return torch.where(in_order, first, second), torch.where(in_order, second, first)


class _Exchange(torch.autograd.Function):
    """`exchange` on the bits of the numbers. It is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, in_order: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(in_order)
        ctx.save_for_forward(in_order)
        integers = _INTEGERS[first.dtype.itemsize]
        # A view may stand for the negative numbers.
        left, right = (each.resolve_neg().view(integers) for each in (first, second))
        # All bits are 1 where the entries are exchanged.
        mask = in_order.to(integers).sub_(1)
        changes = (left ^ right).bitwise_and_(mask)
        return (left ^ changes).view(first.dtype), changes.bitwise_xor_(right).view(first.dtype)

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[None, Tensor, Tensor]:
        (in_order,) = ctx.saved_tensors
        return (None, *exchange(in_order, first, second))

    @staticmethod
    def jvp(ctx: Any, _: None, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        (in_order,) = ctx.saved_tensors
        return exchange(in_order, first, second)
