"""Tensors that depend on nothing but numbers: made once, and kept on each device that asks for them."""

from collections.abc import Callable, Hashable
from functools import wraps
from itertools import count
from types import SimpleNamespace
from typing import Protocol

import torch
from torch import Tensor


class Constant(Protocol):
    """A function of numbers, names and shapes that gives a tensor in the dtype and on the device that are asked for."""

    def __call__(self, *of: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor: ...


# All constants, by names of which each is given once: attributes, which compilers can follow to a tensor.
_kept = SimpleNamespace()
_numbers = count()


def constant(make: Callable[..., Tensor]) -> Constant:
    """Keep what a function makes, for each of its arguments, each dtype and each device.

    A step of training asks for the same matrices many times: made or copied each time, they would cost a launch for
    each operation and, from the CPU to an accelerator, a wait. Compilers take the tensors for constants, too.

    Args:
        make: a function of hashable arguments to a tensor on the CPU, in the highest precision that is asked for.

    Returns:
        The same function with dtype and device. Its tensors are shared: not to be changed.

    Example:
        >>> @constant
        ... def identity(n: int) -> Tensor:
        ...     return torch.eye(n)
        >>> first, second = (identity(2, dtype=torch.float32, device=torch.device("cpu")) for _ in range(2))
        >>> first is second
        True
    """
    names: dict[Hashable, str] = {}

    def made(arguments: tuple[Hashable, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        # Neither the mode nor the default device in which it happens to be asked for first is the constant's.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.device("cpu"):
            return make(*arguments).to(device, dtype)

    # Compilers call this while they trace, and take what it returns for a constant: a name, since not all releases take
    # several tensors. What has the name is then an input of the graph.
    @torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
    def name_of(arguments: tuple[Hashable, ...], dtype: torch.dtype, device: torch.device) -> str | None:
        key = (arguments, dtype, device)
        if key not in names:
            value = made(*key)
            # The tensors of tracers and of `torch.func` are theirs.
            if type(value) is not Tensor or torch._C._are_functorch_transforms_active():
                return None
            names[key] = f"constant_{next(_numbers)}"
            setattr(_kept, names[key], value)
        return names[key]

    @wraps(make)
    def of(*arguments: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
        name = name_of(arguments, dtype, device)
        if name is None:
            return made(arguments, dtype, device)
        kept: Tensor = getattr(_kept, name)
        return kept

    return of
