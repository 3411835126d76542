"""The active autocast dtype, a context without autocast, and where bfloat16 is fast."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations on a device keep the precision of their operands.

    Example:
        >>> matrix = torch.eye(2)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(matrix.device):
        ...     print((matrix @ matrix).dtype)
        torch.float32
    """
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the active autocast dtype for a device, or None without autocast; always None on the meta device.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     print(autocast_dtype(torch.device("cpu")), autocast_dtype(torch.device("meta")))
        torch.bfloat16 None
    """
    # The meta device has no autocast: asking for it raises an error.
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


@lru_cache
def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 itself: a processor with AMX or AVX512-BF16, or a GPU since Ampere.

    On other processors, bfloat16 products take longer than those in float32.
    """
    if device.type == "cpu":
        # Older releases of torch do not tell.
        capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
        found = capabilities()
        return bool(found.get("amx_bf16", False) or found.get("avx512_bf16", False))
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
