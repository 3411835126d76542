"""SHA-256 of named tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_sha256(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256, in hexadecimal, of names, dtypes, shapes and values, in the given order.

    Args:
        tensors: by name, such as the state dict of a module.
        dtype: to which floating-point tensors are converted first, as by ``module.to(dtype)``; None keeps their dtypes.

    Example:
        >>> one = {"weight": torch.ones(2)}
        >>> tensors_sha256(one, torch.float64) == tensors_sha256({"weight": torch.ones(2).double()})
        True
    """
    digest = hashlib.sha256()
    for name, value in tensors.items():
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
