"""Settings that hold for a while."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def attribute_set(objects: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Within the context an attribute of all the objects has a value; at the end each has its own again.

    Example:
        >>> from types import SimpleNamespace
        >>> setting = SimpleNamespace(on=False)
        >>> with attribute_set([setting], "on", True):
        ...     print(setting.on)
        True
        >>> setting.on
        False
    """
    owners = tuple(objects)
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, own in zip(owners, before, strict=True):
            setattr(owner, name, own)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within the context operations on such a device have the precision of their operands.

    Where nothing is cast there is nothing to switch off.

    Example:
        >>> matrix = torch.eye(2)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(matrix.device):
        ...     print((matrix @ matrix).dtype)
        torch.float32
    """
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What operations on such a device are cast to; None if they are not, as on the meta device, where nothing can be.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     print(autocast_dtype(torch.device("cpu")), autocast_dtype(torch.device("meta")))
        torch.bfloat16 None
    """
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)
