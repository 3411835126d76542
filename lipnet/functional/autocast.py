"""What autocast does to operations on a device, and how they are kept from it."""

from contextlib import AbstractContextManager, nullcontext

import torch


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
