"""Build a model from a plain configuration, which may come from a stranger's file."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from torch import nn

_ALLOWED = ("lipnet", "torch.nn")
_MAXIMUM_DEPTH = 100
_MAXIMUM_NODES = 100_000


def build_model(config: Mapping[str, Any], trust: Sequence[str] = ()) -> nn.Module:
    """Build the module that a configuration in Hydra's notation describes.

    ``_target_`` names a class, and the other keys are its arguments. With ``_partial_: true`` the result is a factory.
    Nested mappings with a ``_target_`` are built first. A configuration may come from a stranger's checkpoint, so only
    subclasses of ``nn.Module`` from lipnet.*, torch.nn.* and the packages in ``trust`` are built, and all targets are
    checked before any is called.

    Args:
        config: plain mappings, sequences, strings and numbers.
        trust: names of further packages whose modules may be built. Importing a package runs its code, so only name
            packages that you would run yourself.

    Raises:
        ValueError: a target is not allowed or does not exist, or the configuration is nested too deeply.
    """
    if isinstance(trust, str):
        raise ValueError(f"trust must be a sequence of package names, got the string {trust!r}")
    allowed = (*_ALLOWED, *trust)
    for node in walk(config):
        if isinstance(node, Mapping) and "_target_" in node:
            find_class(node["_target_"], allowed)
    model = _build(config, allowed)
    if not isinstance(model, nn.Module):
        raise ValueError(f"a model's configuration needs a _target_ that is not _partial_, got {dict(config)}")
    return model


def with_defaults(config: Mapping[str, Any], other: Mapping[str, Any], trust: Sequence[str] = ()) -> dict[str, Any]:
    """Add to a configuration the arguments that only another one of the same class states, with their defaults.

    So a configuration from before an option existed equals a later one that states the option's default. Arguments that
    a class passes on to another one are not added.

    Args:
        config, other, trust: as the arguments of `build_model`.
    """
    filled = dict(config)
    if "_target_" in config and config["_target_"] == other.get("_target_"):
        parameters = signature(find_class(config["_target_"], (*_ALLOWED, *trust))).parameters
        for name in other:
            if name in parameters and parameters[name].default is not Parameter.empty:
                filled.setdefault(name, parameters[name].default)
    for name, value in filled.items():
        if isinstance(value, Mapping) and isinstance(other.get(name), Mapping):
            filled[name] = with_defaults(value, other[name], trust)
    return filled


def walk(config: Any) -> list[Any]:
    """Return the nested mappings, sequences and values of a configuration.

    Raises:
        ValueError: the configuration has more than 100 levels or 100,000 nodes, for example if it contains itself.
    """
    nodes, level = [config], [config]
    for _ in range(_MAXIMUM_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, Mapping | list | tuple):
                below += node.values() if isinstance(node, Mapping) else node
            if len(nodes) + len(below) > _MAXIMUM_NODES:
                raise ValueError(f"a configuration may have at most {_MAXIMUM_NODES} nodes, got more")
        if not below:
            return nodes
        nodes, level = nodes + below, below
    raise ValueError(f"a configuration may be nested at most {_MAXIMUM_DEPTH} levels deep, got more")


def _build(node: Any, allowed: tuple[str, ...]) -> Any:
    if isinstance(node, list | tuple):
        return [_build(value, allowed) for value in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: _build(value, allowed) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return arguments
    target = find_class(node["_target_"], allowed)
    return partial(target, **arguments) if node.get("_partial_", False) else target(**arguments)


def find_class(target: Any, allowed: tuple[str, ...] = _ALLOWED) -> type[nn.Module]:
    """Return the class that a ``_target_`` names; raise ValueError unless it is a module of an allowed package."""
    prefixes = tuple(f"{package}." for package in allowed)
    packages = " and ".join([", ".join(f"{prefix}*" for prefix in prefixes[:-1]), f"{prefixes[-1]}*"])
    refusal = f"a model may be built from {packages} modules alone, got _target_ {target!r}"
    if not isinstance(target, str) or not target.startswith(prefixes):
        raise ValueError(f"{refusal}; trust=... adds packages of your own")
    path, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(path), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"{refusal}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(prefixes)):
        raise ValueError(f"{refusal}, which is not an nn.Module of these packages")
    return found
