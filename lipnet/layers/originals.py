"""Methods of classes and functions of torch as they were first, to notice those that are replaced at runtime."""

import types
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_compiled_call_impl")
"""Attributes of a module that decide what calling it computes."""

Methods = Mapping[tuple[type, str], Any]


def methods_of(cls: type, prefix: str = "") -> Methods:
    """Return the methods, properties and other callables of a class and its bases, by base and name.

    Of nn.Module only those in `CALLS` count, and of ``object`` none.

    Args:
        cls: the class.
        prefix: start of the names of the Python modules whose classes count; nn.Module always does.
    """
    return {
        (base, name): value
        for base in cls.__mro__
        if base is nn.Module or (base is not object and base.__module__.startswith(prefix))
        for name, value in vars(base).items()
        if _is_method(value) and (base is not nn.Module or name in CALLS)
    }


def replaced_method(before: Methods, now: Methods) -> str | None:
    """Return the first method that was replaced, added or removed in between, as ``Class.name``; None if there is none.

    Args:
        before, now: two results of `methods_of` for one class.
    """
    differing = (key for key in {**before, **now} if before.get(key) is not now.get(key))
    return next((f"{base.__name__}.{name}" for base, name in differing), None)


def replaced_function() -> str | None:
    """Return the name of a function or tensor method of torch that was replaced since lipnet was imported, or None."""
    for owner, name, value in _FUNCTIONS:
        if getattr(owner, name, None) is not value:
            return f"{owner.__name__}.{name}"
    now = _tensor_methods()
    return next((f"torch.Tensor.{name}" for name in {**_TENSOR, **now} if _TENSOR.get(name) is not now.get(name)), None)


def _is_method(value: Any) -> bool:
    return callable(value) or hasattr(type(value), "__get__")


def _tensor_methods() -> dict[str, Any]:
    """Return the methods of Tensor itself, without those that somebody added under a name of their own."""
    return {
        name: value
        for name, value in vars(Tensor).items()
        if _is_method(value) and (name in _TENSOR_NAMES or hasattr(torch._C.TensorBase, name))
    }


def _is_operator(value: Any) -> bool:
    """Tell whether a value computes with tensors: torch's functions that load, compile or count threads do not."""
    if isinstance(value, types.BuiltinFunctionType):
        return True
    return isinstance(value, types.FunctionType) and value.__module__ in ("torch.functional", "torch.nn.functional")


_FUNCTIONS = [
    (owner, name, value) for owner in (torch, F) for name, value in vars(owner).items() if _is_operator(value)
]
_TENSOR_NAMES = frozenset(vars(Tensor))
_TENSOR = _tensor_methods()
