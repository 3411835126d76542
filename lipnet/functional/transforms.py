"""Transformations and graphs of operations: a test for tensors that stand for others, and a sum that compiles."""

import torch
from torch import Tensor


def is_ordinary(x: Tensor) -> bool:
    """Return False in compilations, traces and transforms of `torch.func`, and for batched gradients.

    There, autograd functions without rules for them, other memory layouts and views in another dtype fail or are
    recorded.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(x)
    )


def add_scaled_(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Add ``scale * y`` to x in place, and return x.

    The CPU compiler of torch 2.14 drops ``alpha`` of a sum with a product of matrices.
    """
    return x.add_(scale * y) if torch.compiler.is_compiling() else x.add_(y, alpha=scale)
