"""Test for ordinary tensors: those that stand for no others, as tensors in a transformation or a graph do."""

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
