"""Temporary values for attributes."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# torch's switches hold for the whole process, and the layers' switches for every thread that shares the model. So one
# thread at a time may change them. A private copy of the model would not help: torch's switches would still be shared.
_LOCK = threading.RLock()


@contextmanager
def override_attributes(objects: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Set an attribute of several objects within the context, and restore each object's own value at the end.

    One thread at a time is inside any such context; others wait. Otherwise, a thread that leaves would restore its
    values in the middle of another one's computation.

    Example:
        >>> from types import SimpleNamespace
        >>> setting = SimpleNamespace(on=False)
        >>> with override_attributes([setting], "on", True):
        ...     print(setting.on)
        True
        >>> setting.on
        False
    """
    with _LOCK:
        before = [(owner, getattr(owner, name)) for owner in objects]
        try:
            for owner, _ in before:
                setattr(owner, name, value)
            yield
        finally:
            for owner, previous in before:
                setattr(owner, name, previous)
