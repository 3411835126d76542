"""Whether a tensor is an ordinary one, or stands for others in a transformation or a compilation."""

import torch
from torch import Tensor


def is_ordinary(x: Tensor) -> bool:
    """Return False within ``torch.compile`` and `torch.func`, and for batched gradients (``is_grads_batched``).

    There, autograd functions without rules for them, other memory layouts and views in another dtype fail.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._functorch.is_legacy_batchedtensor(x)
    )
