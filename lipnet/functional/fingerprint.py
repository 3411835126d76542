"""Texts that tell any two Python values apart, and are the same in every process."""

import copyreg
import enum
import functools
import hashlib
import pickle
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipnet.functional.digest import tensors_sha256

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_EMPTY_CELL = types.CellType()
_BY_NAME = type | types.ModuleType | types.BuiltinFunctionType


def fingerprint(value: Any) -> str:
    """Return a text of a value's type and content; of a function, of its code, defaults and closure.

    It holds no addresses and sorts sets, so that a value has the same text in every process. Entries of a dictionary
    count in their order. A class or module of Python counts as its name. So does the type of a value that pickle
    refuses, such as a lock.

    Example:
        >>> fingerprint({"slope": 0.5}) == fingerprint({"slope": 0.5}) != fingerprint({"slope": 0.25})
        True
        >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
        False
    """
    return _text(value, ())


def class_fingerprint(cls: type, libraries: tuple[str, ...]) -> str:
    """Return a text of the attributes of a class, with the code of its methods, and of its bases.

    Args:
        cls: the class.
        libraries: packages with a dot, such as ``"torch."``, whose classes count as their names.
    """
    texts = [_name(cls)]
    for each in cls.__mro__:
        if each is not object and not each.__module__.startswith(libraries):
            texts += [
                f"{key}: {fingerprint(value)}" for key, value in vars(each).items() if not _is_incidental(key, value)
            ]
    return "; ".join(texts)


def _text(value: Any, around: tuple[int, ...]) -> str:
    """Return the text of a value inside others, which have the addresses ``around``."""
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, _BY_NAME):
        return _name(value)
    if id(value) in around:
        return f"#{len(around) - around.index(id(value))}"  # it contains itself

    def texts(values: Iterable[Any]) -> list[str]:
        return [_text(each, (*around, id(value))) for each in values]

    parts = _content(value, texts)
    return f"{_name(type(value))}({', '.join(parts)})"


def _content(value: Any, texts: Callable[[Iterable[Any]], list[str]]) -> list[str]:
    """Return the texts of the values of which a value consists."""
    match value:
        case Tensor():
            return ["meta" if value.is_meta else tensors_sha256({"": value})]
        case np.ndarray() | np.generic() if value.dtype != object:
            entries = np.ascontiguousarray(value)
            return [str(entries.dtype), str(entries.shape), hashlib.sha256(entries.tobytes()).hexdigest()]
        case enum.Enum():
            return [value.name]
        case set() | frozenset():
            return sorted(texts(value))
        # Subclasses, such as a defaultdict, may hold more than their entries: pickle knows.
        case dict() if type(value) is dict:
            return texts(value.items())
        case list() | tuple() if type(value) in (list, tuple):
            return texts(value)
        case types.FunctionType():
            closure = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY_CELL]
            return texts([value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, closure])
        case types.CodeType():
            # The last one says which instructions lie in which ``try`` block.
            return texts([value.co_code, value.co_names, value.co_consts, value.co_exceptiontable])
        case types.MethodType():
            return texts([value.__func__, value.__self__])
        case property():
            return texts([value.fget, value.fset])
        case staticmethod() | classmethod():
            return texts([value.__func__])
        case functools.partial():
            return texts([value.func, value.args, value.keywords])
    return _reduced(value, texts)


def _reduced(value: Any, texts: Callable[[Iterable[Any]], list[str]]) -> list[str]:
    """Return the texts of what pickle would write; nothing if it refuses."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except (TypeError, pickle.PicklingError):
        return []
    if isinstance(reduced, str):
        return [reduced]
    make, arguments, state, items, entries = (*reduced[:5], None, None, None)[:5]
    return texts([make, arguments, state, list(items or ()), list(entries or ())])


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"


def _is_incidental(name: str, value: Any) -> bool:
    """Tell whether Python gives a class an attribute by itself: its documentation, its annotations, or a cache."""
    method = isinstance(value, types.FunctionType) and not name.startswith("__annotate")
    return name.startswith("__") and not method
