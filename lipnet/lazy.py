"""Packages whose public names are imported at first use (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports each public name at its first use.

    Args:
        modules: for each public name, the module that defines it.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in modules:
            raise AttributeError(f"no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return __getattr__
