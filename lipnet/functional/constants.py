"""A cache for constant tensors, with one copy for each dtype and device."""

from collections.abc import Callable, Hashable
from functools import wraps
from itertools import count
from types import SimpleNamespace
from typing import TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., object])


def traced_as_constant(function: Function) -> Function:
    """Let compilers call a function while they trace, and treat its result as a constant.

    ``torch.compiler.assume_constant_result`` does the same, but imports torch._dynamo, which takes more than a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# All cached tensors, each as an attribute: compilers can follow an attribute to its tensor.
_cached = SimpleNamespace()
_numbers = count()


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache the results of a function for each combination of arguments, dtype and device.

    A training step uses the same matrices many times. Computing them again would cost a kernel launch per operation,
    and copying them to an accelerator a wait. Compilers treat the cached tensors as constants, too.

    ``functools.lru_cache`` is not enough. It would also cache tensors of tracers and of `torch.func`, and inference
    tensors, which autograd cannot save. And compilers look through it, and compute the constant in every call.

    Args:
        make: a function of hashable arguments that returns a tensor on the CPU, in the highest precision needed.

    Returns:
        The same function with keyword arguments for the dtype and device of the result. Its tensors are shared: do not
        modify them.

    Example:
        >>> @constant
        ... def identity(n: int) -> Tensor:
        ...     return torch.eye(n)
        >>> first, second = (identity(2, dtype=torch.float32, device=torch.device("cpu")) for _ in range(2))
        >>> first is second
        True
    """
    names: dict[Hashable, str] = {}

    def compute(arguments: tuple[Hashable, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        # The cached tensor must not depend on the mode or the default device of its first use.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.device("cpu"):
            return make(*arguments).to(device, dtype)

    # Return a name, not the tensor: some torch releases do not accept several tensors here. The tensor with that name
    # becomes an input of the compiled graph.
    @traced_as_constant
    def name_of(arguments: tuple[Hashable, ...], dtype: torch.dtype, device: torch.device) -> str | None:
        key = (arguments, dtype, device)
        if key not in names:
            value = compute(*key)
            # Tensors of tracers and of `torch.func` are only valid inside them.
            if type(value) is not Tensor or torch._C._are_functorch_transforms_active():
                return None
            names[key] = f"constant_{next(_numbers)}"
            setattr(_cached, names[key], value)
        return names[key]

    @wraps(make)
    def cached(*arguments: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
        name = name_of(arguments, dtype, device)
        value: Tensor = compute(arguments, dtype, device) if name is None else getattr(_cached, name)
        return value

    return cached
