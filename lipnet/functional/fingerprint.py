"""Texts that tell any two Python values apart, and are the same in every process."""

import copyreg
import enum
import functools
import hashlib
import pickle
import secrets
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from lipnet.functional.digest import tensors_sha256

_PLAIN = (
    *(bool, int, float, complex, str, bytes, types.NoneType, types.EllipsisType, types.NotImplementedType),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, torch.finfo, torch.iinfo),
)
_BY_NAME = types.ModuleType | TypeVar | ParamSpec
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_NUMBERS = "biufcmMSU"
_EMPTY_CELL = types.CellType()
# Packages whose classes count as their names. The versions of Python, torch and lipnet's files are compared elsewhere.
_LIBRARIES = ("lipnet", "numpy", "torch")
# Folders of Python's own modules, and of packages, which may lie below them.
_OF_PYTHON = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_OF_PACKAGES = {"site-packages", "dist-packages"}
# Flag of classes whose attributes cannot be set, because they are written in C.
_IMMUTABLE = 1 << 8
# Python gives a class these attributes by itself. They do not change what its methods compute.
_INCIDENTAL = {
    *("__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dict__"),
    *("__firstlineno__", "__module__", "__orig_bases__", "__parameters__", "__slotnames__", "__static_attributes__"),
    *("__type_params__", "__weakref__", "_abc_impl"),
}
# It differs from process to process, so that a text with it equals no text of another process.
_UNKNOWN = f"unknown {secrets.token_hex(16)}"


def fingerprint(value: Any) -> str:
    """Return a text of a value's type and content; of a function, of its code, defaults, closure and attributes.

    It holds no addresses and sorts sets, so that a value has the same text in every process. Entries of a dictionary
    count in their order. Modules of Python, and classes of Python, numpy, torch and lipnet, count as their names; other
    classes count as their attributes and bases.

    Other values count as what pickle would write, and if their class chooses that itself, as all their attributes too.
    A value that pickle refuses, such as a generator, has a text of its own in each process: see `is_known`. Locks have
    no content.

    Example:
        >>> fingerprint({"slope": 0.5}) == fingerprint({"slope": 0.5}) != fingerprint({"slope": 0.25})
        True
        >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
        False
    """
    return _text(value, (), {})


def is_known(text: str) -> bool:
    """Tell whether a fingerprint covers all content, so that equal values have the same one in every process.

    Example:
        >>> is_known(fingerprint([1.0])), is_known(fingerprint([memoryview(b"a")]))
        (True, False)
    """
    return _UNKNOWN not in text


def _text(value: Any, around: tuple[int, ...], classes: dict[int, str]) -> str:
    """Return the text of a value.

    Args:
        value: the value.
        around: addresses of the values that contain it.
        classes: texts of the classes that were found so far, by their addresses.
    """
    if type(value) in _PLAIN:
        return repr(value)
    if isinstance(value, _BY_NAME) or (isinstance(value, type) and counts_as_name(value)):
        return _name(value)
    if isinstance(value, type):
        return _class_text(value, classes)
    if id(value) in around:
        return f"#{len(around) - around.index(id(value))}"  # it contains itself

    def texts(values: Iterable[Any]) -> list[str]:
        return [_text(each, (*around, id(value)), classes) for each in values]

    return f"{_text(type(value), (), classes)}({', '.join(_content(value, texts))})"


def _class_text(cls: type, classes: dict[int, str]) -> str:
    """Return the text of a class that counts as its attributes."""
    if id(cls) not in classes:
        classes[id(cls)] = f"class {len(classes)}"  # inside itself
        own = [(_name(each), _own_attributes(each)) for each in cls.__mro__ if not counts_as_name(each)]
        libraries = [each for each in cls.__mro__ if counts_as_name(each)]
        content = _text([type(cls), own, libraries], (), classes)
        known = "" if is_known(content) else _UNKNOWN
        classes[id(cls)] = f"{_name(cls)} {hashlib.sha256(content.encode()).hexdigest()}{known}"
    return classes[id(cls)]


def _content(value: Any, texts: Callable[[Iterable[Any]], list[str]]) -> list[str]:
    """Return the texts of the values of which a value consists."""
    match value:
        case Tensor() if value.is_meta:
            return [str(value.dtype), str(tuple(value.shape)), *texts([vars(value)])]
        case Tensor() if value.layout == torch.strided and not value.is_nested and not value.is_quantized:
            return [tensors_sha256({"": value}), *texts([vars(value)])]
        case np.ndarray() | np.generic() if _is_plain_array(value):
            entries = np.ascontiguousarray(value)
            return [str(entries.dtype), str(entries.shape), hashlib.sha256(entries.tobytes()).hexdigest()]
        case enum.Enum():
            return [str(value.name), *texts([value.value])]
        case types.FunctionType():
            closure = [cell.cell_contents for cell in value.__closure__ or () if cell != _EMPTY_CELL]
            code = [value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, closure]
            return texts([*code, _own_attributes(value)])
        case types.CodeType():
            parameters = [value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags]
            # The last one says which instructions lie in which ``try`` block.
            instructions = [value.co_code, value.co_names, value.co_consts, value.co_exceptiontable]
            return texts([*instructions, value.co_varnames, parameters])
        case types.MethodType():
            return texts([value.__func__, value.__self__])
        case types.BuiltinFunctionType():
            return [_name(value), *texts([value.__self__])]
        case functools._lru_cache_wrapper():
            return texts([_own_attributes(value)])  # the function is ``__wrapped__``
    return _of_exact_class(value, texts)


def _of_exact_class(value: Any, texts: Callable[[Iterable[Any]], list[str]]) -> list[str]:
    """Return the texts of the content of a container or descriptor; subclasses may hold more: pickle knows."""
    kind = type(value)
    if kind in (dict, types.MappingProxyType):
        return texts(value.items())
    if kind in (list, tuple):
        return texts(value)
    if kind in (set, frozenset):
        return sorted(texts(value))
    if kind is property:
        return texts([value.fget, value.fset, value.fdel])
    if kind in (staticmethod, classmethod):
        return texts([value.__func__])
    if kind in _LOCKS:
        return []
    return _reduced(value, texts)


def _reduced(value: Any, texts: Callable[[Iterable[Any]], list[str]]) -> list[str]:
    """Return the texts of what pickle would write; one that no other value has if pickle refuses."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        attributes = object.__getstate__(value) if _chooses_its_state(type(value)) else None
    except (AttributeError, RuntimeError, TypeError, pickle.PickleError):
        return [f"{_UNKNOWN} {id(value)}"]
    if isinstance(reduced, str):  # pickle would write a name alone
        return [reduced if _is_of_library(value, reduced) else f"{_UNKNOWN} {id(value)}"]
    make, arguments, state, items, entries = (*reduced[:5], None, None, None)[:5]
    return texts([make, arguments, state, list(items or ()), list(entries or ()), attributes])


def _chooses_its_state(cls: type) -> bool:
    """Tell whether a class that does not count as its name says what pickle writes, and may leave something out."""
    names = ("__getstate__", "__reduce__", "__reduce_ex__")
    return not counts_as_name(cls) and any(getattr(cls, name) is not getattr(object, name) for name in names)


def _is_plain_array(value: Any) -> bool:
    """Tell whether bytes, dtype and shape are all the content of an array or number of numpy."""
    return type(value) in (np.ndarray, value.dtype.type) and value.dtype.kind in _NUMBERS


def _own_attributes(value: Any) -> dict[str, Any]:
    return {name: attribute for name, attribute in vars(value).items() if name not in _INCIDENTAL}


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"


def counts_as_name(cls: type) -> bool:
    """Tell whether a class is written in C, or one of Python, numpy, torch or lipnet under its own name."""
    return bool(cls.__flags__ & _IMMUTABLE) or _is_of_library(cls, cls.__qualname__)


def _is_of_library(value: Any, name: str) -> bool:
    """Tell whether a library's module holds a value under this name."""
    module = str(getattr(value, "__module__", None))
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value and _is_library(module)


def _is_library(module: str) -> bool:
    """Tell whether a module is one of `_LIBRARIES` or of Python. Your own one may have the name of one of Python."""
    package = module.partition(".")[0]
    if package not in sys.stdlib_module_names:
        return package in _LIBRARIES
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return True  # built in
    place = Path(file).resolve()
    return any(map(place.is_relative_to, _OF_PYTHON)) and _OF_PACKAGES.isdisjoint(place.parts)
