"""Temporary values for attributes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def override_attributes(objects: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Set an attribute of several objects within the context, and restore each object's own value at the end.

    Example:
        >>> from types import SimpleNamespace
        >>> setting = SimpleNamespace(on=False)
        >>> with override_attributes([setting], "on", True):
        ...     print(setting.on)
        True
        >>> setting.on
        False
    """
    before = [(owner, getattr(owner, name)) for owner in objects]
    try:
        for owner, _ in before:
            setattr(owner, name, value)
        yield
    finally:
        for owner, previous in before:
            setattr(owner, name, previous)
