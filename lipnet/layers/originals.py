"""Methods of classes as they were first, to notice those that are replaced at runtime."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_compiled_call_impl")
"""Attributes of a module that decide what calling it computes."""

Methods = Mapping[tuple[type, str], Any]

_LIBRARY = "lipnet."
# Methods of nn.Module and of each class of lipnet, as they were when the class was defined.
_ORIGINALS: WeakKeyDictionary[type, Methods] = WeakKeyDictionary()


class WatchedModule(nn.Module):
    """A module whose class may rest on methods of lipnet: certificates refuse it if one of these was replaced."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.__module__.startswith(_LIBRARY):
            for base in cls.__mro__:
                if base is nn.Module or base.__module__.startswith(_LIBRARY):
                    _ORIGINALS.setdefault(base, _methods_of_one(base))


def replaced_in_bases(module: WatchedModule) -> str | None:
    """Return a method that nn.Module or a class of lipnet among the bases had at first and has no more, or None.

    Methods of other classes are not compared: their authors may replace them.
    """
    bases = (base for base in type(module).__mro__ if base in _ORIGINALS)
    replaced = (replaced_method(_ORIGINALS[base], _methods_of_one(base)) for base in bases)
    return next((each for each in replaced if each is not None), None)


def methods_of(cls: type) -> Methods:
    """Return the methods, properties and other callables of a class and its bases, by base and name.

    Of nn.Module only those in `CALLS` count, and of ``object`` none.
    """
    bases = (base for base in cls.__mro__ if base is not object)
    return {key: value for base in bases for key, value in _methods_of_one(base).items()}


def _methods_of_one(cls: type) -> Methods:
    """Return the methods of a class, without those of its bases, see `methods_of`."""
    return {
        (cls, name): value
        for name, value in vars(cls).items()
        if _is_method(value) and (cls is not nn.Module or name in CALLS)
    }


def replaced_method(before: Methods, now: Methods) -> str | None:
    """Return the first method that was replaced, added or removed in between, as ``Class.name``; None if there is none.

    Args:
        before, now: methods of one class, at two times.
    """
    differing = (key for key in {**before, **now} if before.get(key) is not now.get(key))
    return next((f"{base.__name__}.{name}" for base, name in differing), None)


def _is_method(value: Any) -> bool:
    return callable(value) or hasattr(type(value), "__get__")
