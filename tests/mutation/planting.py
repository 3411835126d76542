"""Defects: plant one into the running lipnet, and remove it again.

Most of them occurred, in published code or in an earlier version of lipnet.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import _lru_cache_wrapper
from types import FunctionType
from typing import Any

import pytest

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Defect:
    """A defect, and the tests that must fail with it: each of them, and with a verdict of its own.

    Attributes:
        name: description.
        plant: function that plants it.
        catchers: the tests.
        trusting: see `planted`.
    """

    name: str
    plant: Plant
    catchers: Sequence[str]
    trusting: bool = True


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
def planted(plant: Plant, *, trusting: bool = True) -> Iterator[None]:
    """Plant a defect, with lipnet's lru_caches empty before and after.

    Args:
        plant: function that plants it.
        trusting: skip the check that classes of lipnet have their own methods: a defect stands for lipnet's own code.
    """
    _clear_caches()
    try:
        with pytest.MonkeyPatch.context() as patch:
            if trusting:
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
