"""Settings that hold for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def override_attributes(objects: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Within the context an attribute of all the objects has a value; at the end each has its own again.

    Example:
        >>> from types import SimpleNamespace
        >>> setting = SimpleNamespace(on=False)
        >>> with override_attributes([setting], "on", True):
        ...     print(setting.on)
        True
        >>> setting.on
        False
    """
    owners = tuple(objects)
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, own in zip(owners, before, strict=True):
            setattr(owner, name, own)
