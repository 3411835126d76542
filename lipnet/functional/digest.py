"""SHA-256 of named tensors, of batches, of source files, and of files that state their own."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PACKAGE = Path(__file__).parents[1]

SHA256_TO_COME = "0" * 64
"""The place of a file's own SHA-256 while it is computed."""


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
        # A tensor may be stored as its negative, or as its conjugate.
        stored = value.detach().cpu().resolve_neg().resolve_conj().contiguous()
        if stored.stride()[-1:] not in ((), (1,)):
            # For torch, a single entry of a tensor with gaps is contiguous.
            stored = stored.clone(memory_format=torch.contiguous_format)
        # The buffer itself: a copy of millions of images would need as much memory again.
        digest.update(stored.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def batch_sha256(images: Tensor, labels: Tensor, indices: Tensor) -> str:
    """Return the SHA-256 of a batch of a dataset.

    Args:
        images: as a model receives them.
        labels, indices: int64 (B,).
    """
    return tensors_sha256({"images": images, "labels": labels, "indices": indices})


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file."""
    return json.dumps(content, indent=2).encode() + b"\n"


def json_sha256(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON file that states it under ``sha256``: of its other entries, in their order.

    Example:
        >>> json_sha256({"n_samples": 5, "sha256": "unknown"}) == json_sha256({"n_samples": 5})
        True
    """
    others = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json_bytes(others)).hexdigest()


def with_own_sha256(data: bytes) -> bytes:
    """Return the content of a file with its SHA-256 in place of the first `SHA256_TO_COME`."""
    return data.replace(SHA256_TO_COME.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def states_own_sha256(data: bytes, stated: str) -> bool:
    """Tell whether the SHA-256 that a file states is that of `with_own_sha256`.

    Example:
        >>> data = with_own_sha256(f"a file with the SHA-256 {SHA256_TO_COME}".encode())
        >>> states_own_sha256(data, data.split()[-1].decode())
        True
    """
    blank = data.replace(stated.encode(), SHA256_TO_COME.encode(), 1)
    return hashlib.sha256(blank).hexdigest() == stated


@lru_cache
def code_sha256(package: Path = _PACKAGE) -> str:
    """Return the SHA-256, in hexadecimal, of the names and contents of all source files of a package; default: lipnet.

    It tells apart what one version does not: two checkouts, or a checkout that was changed.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}".encode())
        digest.update(content)
    return digest.hexdigest()
