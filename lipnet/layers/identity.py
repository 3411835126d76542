"""Modules, settings and weights of a model: to notice a change, and to tell two models apart."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lipnet.functional.digest import tensors_sha256
from lipnet.functional.fingerprint import counts_as_name, fingerprint, is_known
from lipnet.layers.cache import version_of

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_LIBRARIES = ("lipnet.", "torch.")
# The function that evaluation computes does not depend on these: attributes of every module, and of lipnet's.
_OF_MODULES = {"training", *vars(nn.Module())}
_OF_LIPNET = {"explicit", "estimated", "recompute"}


@dataclass(frozen=True)
class ModelState:
    """A model's modules, settings and tensors at one time; equal to a later state if nothing was changed.

    Attributes:
        modules: path, identity, class, mode, settings, and the children and tensors by name, of each module.
        tensors: place in memory, layout and version of each parameter and buffer.
        kept: these modules and tensors, so that no new one takes the identity or memory of one that was dropped.
    """

    modules: list[tuple[Any, ...]]
    tensors: list[tuple[Any, ...]]
    kept: list[Any] = field(repr=False, compare=False)


def state_of(model: nn.Module) -> ModelState:
    """Return the state of a model, to compare it with a later one, which costs little.

    Writes change no version if they go through ``.data`` or an array that shares the memory, or happen in inference
    mode. The settings of modules outside lipnet and torch are left out, because some of them, such as counters, may
    change in evaluation.
    """
    # Each module and tensor is listed once. What a module holds tells where it occurs again.
    modules, tensors = list(model.named_modules()), [*model.parameters(), *model.buffers()]
    described = [
        (
            path,
            id(module),
            type(module),
            module.training,
            settings_of(module) if of_lipnet_or_torch(module) else None,
            *_held_by(module),
        )
        for path, module in modules
    ]
    return ModelState(described, [_place_of(each) for each in tensors], [*modules, *tensors])


def _held_by(module: nn.Module) -> Iterator[list[tuple[str, int]]]:
    """Yield names and identities of a module's children, parameters and buffers, in order."""
    for held in (module._modules, module._parameters, module._buffers):
        yield [(name, id(each)) for name, each in held.items()]


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return (
        tensor.data_ptr(),
        version_of(tensor),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_neg(),
        tensor.is_conj(),
    )


def values_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's modules, their settings, and the values of all parameters and buffers.

    Of your own modules, it only covers public settings that are numbers, texts, or tuples and lists of them: other
    attributes may be caches. `model_sha256` covers them, too.
    """
    return _sha256(model, {path: settings_of(module) for path, module in _paths(model)})


def model_sha256(model: nn.Module) -> str:
    """Return a SHA-256 that two models only share if they compute the same function.

    It is the same in every process, and covers what `values_sha256` does, all attributes of your own modules, private
    ones too, and the code of their methods. A state dict alone leaves out settings, activations, and buffers that are
    not saved. If an attribute has content that cannot be compared, such as a generator, no other process has the same
    result, and words behind the digest name the attribute.
    """
    texts = {path: _everything_of(module) for path, module in _paths(model)}
    digest = _sha256(model, texts)
    for path, attributes in texts.items():
        for name, text in attributes.items():
            if not is_known(text):
                place = f"{path}.{name}".lstrip(".")
                return f"{digest} of one process alone, as {place} has content that cannot be compared with another's"
    return digest


def differing_part(model: nn.Module, other: nn.Module) -> str | None:
    """Return the first difference of two models in modules or settings, in words; None if there is none.

    The settings of your own modules are left out.

    Example:
        >>> differing_part(nn.Sequential(nn.ELU(2.0)), nn.Sequential(nn.ELU()))
        '0.alpha is 2.0 in place of 1.0'
    """
    here, there = dict(_paths(model)), dict(_paths(other))
    for path in {**here, **there}:
        kinds = [type(modules[path]).__name__ if path in modules else "no module" for modules in (here, there)]
        if path not in here or path not in there or type(here[path]) is not type(there[path]):
            return f"{path or 'the model'} is {kinds[0]} in place of {kinds[1]}"
        if of_lipnet_or_torch(here[path]):
            settings, others = settings_of(here[path]), settings_of(there[path])
            for name in {**settings, **others}:
                if settings.get(name) != others.get(name):
                    place = f"{path}.{name}".lstrip(".")
                    return f"{place} is {settings.get(name)} in place of {others.get(name)}"
    return None


def settings_of(module: nn.Module) -> dict[str, str]:
    """Return the texts of a module's settings by name.

    For classes of torch, these are all attributes: torch pads circularly by a private one. For other classes, they are
    the public attributes that are numbers, texts, or tuples and lists of them, and for lipnet's also tensors, arrays
    and mappings.
    """
    return {
        name: repr(value) if _is_plain(value) else fingerprint(value)
        for name, value in vars(module).items()
        if _is_setting(module, name, value)
    }


def _is_setting(module: nn.Module, name: str, value: Any) -> bool:
    """Tell whether an attribute counts as a setting, see `settings_of`.

    Those of nn.Module itself do not, nor do replaced methods, which certificates refuse with an error of their own.
    """
    if name in _OF_MODULES or callable(getattr(type(module), name, None)):
        return False
    if not of_lipnet_or_torch(module):
        return not name.startswith("_") and _is_plain(value)
    of_torch = type_before_parametrizations(module).__module__.startswith("torch.")
    return of_torch or not (name.startswith("_") or name in _OF_LIPNET)


def of_lipnet_or_torch(module: nn.Module) -> bool:
    """Tell whether a module's class is one of lipnet or torch.

    ``torch.nn.utils.parametrize`` replaces the class of a module by a subclass of its own, which does not count.
    """
    cls: type = type_before_parametrizations(module)
    return cls.__module__.startswith(_LIBRARIES) and counts_as_name(cls)


def _everything_of(module: nn.Module) -> dict[str, str]:
    """Return the fingerprints of all attributes of an own module, and of its class; other modules' settings."""
    if of_lipnet_or_torch(module):
        return settings_of(module)
    attributes = {name: fingerprint(value) for name, value in vars(module).items() if name not in _OF_MODULES}
    # Parametrizations are modules of their own.
    return {**attributes, "__class__": fingerprint(type_before_parametrizations(module))}


def _sha256(model: nn.Module, settings: dict[str, dict[str, str]]) -> str:
    digest = hashlib.sha256()
    for path, module in _paths(model):
        kind = type(module)
        digest.update(repr((path, kind.__module__, kind.__qualname__, settings[path])).encode())
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    digest.update(tensors_sha256(tensors).encode())
    return digest.hexdigest()


def _paths(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules(remove_duplicate=False))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
