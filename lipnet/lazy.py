"""Packages whose public names are imported at first use (PEP 562)."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports each of its public names when it is first asked for.

    Args:
        modules: the module that defines each name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in modules:
            raise AttributeError(f"no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return __getattr__
