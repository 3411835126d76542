"""Methods of classes as they were first, to notice those that are replaced at runtime."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_compiled_call_impl")
"""Attributes of a module that decide what calling it computes."""

Methods = Mapping[tuple[type, str], Any]

_LIBRARY = "lipnet."
# Methods of lipnet's own classes among the bases of each subclass, as they were when it was defined.
_METHODS: WeakKeyDictionary[type, Methods] = WeakKeyDictionary()


class WatchedModule(nn.Module):
    """A module whose class may rest on methods of lipnet: certificates refuse it if one of these was replaced."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        _METHODS[cls] = methods_of(cls, _LIBRARY)


def replaced_in_bases(module: WatchedModule) -> str | None:
    """Return a method of a class of lipnet that was replaced since the module's class was defined, or None.

    Methods of classes outside lipnet are not compared: their authors may replace them.
    """
    cls = type(module)
    return replaced_method(_METHODS[cls], methods_of(cls, _LIBRARY)) if cls in _METHODS else None


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


def _is_method(value: Any) -> bool:
    return callable(value) or hasattr(type(value), "__get__")
