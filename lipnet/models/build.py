"""A model from a plain configuration, which may come from a stranger's file."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

_ALLOWED = ("lipnet.", "torch.nn.")


def build_model(config: Mapping[str, Any], trust: Sequence[str] = ()) -> nn.Module:
    """Make the module that a configuration describes, in the notation of Hydra.

    ``_target_`` names a class, the other keys are its arguments; with ``_partial_: true`` the result is a factory
    instead. Nested mappings with a ``_target_`` are made first. A configuration may come from a checkpoint, so that
    only subclasses of ``nn.Module`` defined in lipnet.* or torch.nn.* are made; everything is checked before anything
    is called.

    Args:
        config: plain mappings, sequences, texts and numbers.
        trust: packages of one's own whose modules are allowed too, by name; never for a stranger's configuration.

    Raises:
        ValueError: for a target outside the allowed ones, or one that does not exist.
    """
    allowed = (*_ALLOWED, *(f"{package}." for package in trust))
    _check(config, allowed)
    model = _make(config, allowed)
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model's configuration needs a _target_ that is not _partial_, got {dict(config)}")
    return model


def _check(node: Any, allowed: tuple[str, ...]) -> None:
    if isinstance(node, Mapping):
        if "_target_" in node:
            _module_class(node["_target_"], allowed)
        for value in node.values():
            _check(value, allowed)
    elif isinstance(node, list | tuple):
        for value in node:
            _check(value, allowed)


def _make(node: Any, allowed: tuple[str, ...]) -> Any:
    if isinstance(node, Mapping):
        arguments = {key: _make(value, allowed) for key, value in node.items() if key not in ("_target_", "_partial_")}
        if "_target_" not in node:
            return arguments
        target = _module_class(node["_target_"], allowed)
        return partial(target, **arguments) if node.get("_partial_", False) else target(**arguments)
    if isinstance(node, list | tuple):
        return [_make(value, allowed) for value in node]
    return node


def _module_class(target: Any, allowed: tuple[str, ...]) -> type[nn.Module]:
    """The class that a ``_target_`` names, if it is allowed."""
    refusal = f"a model may be built from {'* and '.join(allowed)}* modules alone, got _target_ {target!r}"
    if not isinstance(target, str) or not target.startswith(allowed):
        raise ValueError(refusal)
    path, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(path), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"{refusal}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(allowed)):
        raise ValueError(refusal)
    return found
