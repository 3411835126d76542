"""Type checks of numeric settings, before anything is built from them."""

from collections.abc import Mapping
from inspect import signature
from pydoc import ErrorDuringImport, locate
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

_NUMBERS = {bool: "true or false", int: "an integer", float: "a number"}


def check_number(name: str, value: Any, annotation: Any) -> None:
    """Check a setting against the annotation of the argument that it becomes.

    Annotations that admit more than numbers, tensors and null are not checked.

    Raises:
        ValueError: if the annotation does not admit the value, such as text, a fraction or null for an integer.
    """
    admitted = set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    if not admitted <= {*_NUMBERS, NoneType, Tensor} or not admitted & {*_NUMBERS}:
        return
    # An integer is also a valid float.
    if type(value) in admitted or (type(value) is int and float in admitted):
        return
    words = [word for kind, word in _NUMBERS.items() if kind in admitted] + ["null"] * (NoneType in admitted)
    raise ValueError(f"{name} must be {' or '.join(words)}, got {'null' if value is None else repr(value)}")


def check_numbers(settings: Any, name: str = "") -> None:
    """Check the arguments of each ``_target_`` in a part of a configuration against the target's annotations.

    Args:
        settings: plain mappings, lists and values; the targets in it are imported.
        name: full name of this part, for errors.

    Raises:
        ValueError: as for `check_number`.
    """
    if isinstance(settings, list):
        for place, value in enumerate(settings):
            check_numbers(value, f"{name}[{place}]")
    if not isinstance(settings, Mapping):
        return
    annotations = _annotations(settings["_target_"]) if "_target_" in settings else {}
    for key, value in settings.items():
        full = f"{name}.{key}" if name else str(key)
        check_numbers(value, full)
        if key in annotations and not isinstance(value, Mapping):
            check_number(full, value, annotations[key])


def _annotations(target: str) -> dict[str, Any]:
    """Return the annotations of a target's arguments; where the default is None, they admit None."""
    try:
        found: Any = locate(target)
        function = found.__init__ if isinstance(found, type) else found  # type: ignore[misc]
        hints, parameters = get_type_hints(function), signature(function).parameters
    except (ErrorDuringImport, NameError, TypeError, ValueError):
        # Hydra itself reports a missing target. Others are written in C, or annotate with names for type checkers only.
        return {}
    kept = {name: hint for name, hint in hints.items() if name in parameters}
    defaults = {name for name in kept if parameters[name].default is None}
    return {name: Union[hint, None] if name in defaults else hint for name, hint in kept.items()}  # noqa: UP007
