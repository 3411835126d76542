"""Plant a defect into the running lipnet, and remove it again."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import FunctionType
from typing import Any

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]


def lipnet_modules() -> list[Any]:
    return [module for name, module in list(sys.modules.items()) if name == "lipnet" or name.startswith("lipnet.")]


def replace_everywhere(patch: pytest.MonkeyPatch, original: Any, replacement: Any) -> None:
    """Rebind every name for an object in the modules of lipnet to its replacement."""
    places = [(owner, name) for owner in lipnet_modules() for name, value in vars(owner).items() if value is original]
    assert places, f"no module of lipnet holds {original}"
    for owner, name in places:
        patch.setattr(owner, name, replacement)


def edited(function: Callable[..., Any], old: str, new: str) -> FunctionType:
    """Return the function with one piece of its source, which must occur exactly once, replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {function.__qualname__}"
    scope = dict(function.__globals__)
    exec(compile(source.replace(old, new), inspect.getfile(function), "exec"), scope)
    result: FunctionType = scope[function.__name__]
    # Share the original globals, so that other replacements take effect here, too.
    own = FunctionType(result.__code__, function.__globals__, result.__name__, result.__defaults__, result.__closure__)
    own.__kwdefaults__ = result.__kwdefaults__
    return own


def edit(function: Callable[..., Any], old: str, new: str) -> Plant:
    """Replace a piece of a function's source wherever lipnet refers to the function."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        replace_everywhere(patch, function, edited(function, old, new))

    return plant


def edit_method(owner: type, name: str, old: str, new: str) -> Plant:
    """Replace a piece of the source of a class's method."""
    return lambda patch: patch.setattr(owner, name, edited(vars(owner)[name], old, new))


def replace(original: Callable[..., Any], replacement: Callable[..., Any]) -> Plant:
    """Replace a function wherever lipnet refers to it."""
    return lambda patch: replace_everywhere(patch, original, replacement)


def attribute(owner: Any, name: str, value: Any, *, new: bool = False) -> Plant:
    """Set an attribute of a class or a module; ``new`` allows names it lacks, such as those of builtins."""
    return lambda patch: patch.setattr(owner, name, value, raising=not new)


@contextmanager
def planted(plant: Plant | None) -> Iterator[None]:
    """Plant a defect, or none, with lipnet's caches empty before and after."""
    _clear_caches()
    try:
        with pytest.MonkeyPatch.context() as patch:
            if plant is not None:
                # A defect is no patch of a class that certificates would notice: it stands for lipnet's own code.
                patch.setattr("lipnet.certify.checks.replaced_in_bases", lambda module: None)
                plant(patch)
            yield
    finally:
        _clear_caches()


def _clear_caches() -> None:
    for module in lipnet_modules():
        for value in vars(module).values():
            if isinstance(value, _lru_cache_wrapper):
                value.cache_clear()
