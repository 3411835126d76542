"""Sorting of pairs, the core of norm-preserving activations."""

from typing import Any

import torch
from torch import Tensor


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
        return torch.where(in_order, larger, smaller), torch.where(in_order, smaller, larger)


class _SortPairsWithJvp(_SortPairs):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, None]:
        (in_order,) = ctx.saved_tensors
        return torch.where(in_order, first, second), torch.where(in_order, second, first), None
