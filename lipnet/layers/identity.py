"""Modules, settings and weights of a model: to notice a change, and to tell two models apart."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.digest import tensors_sha256

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
# The function that evaluation computes does not depend on these.
_IRRELEVANT = ("training", "explicit", "estimated", "recompute")


def state_of(model: nn.Module) -> list[Any]:
    """Return the modules with their modes and settings, and all tensors with their addresses and versions.

    Comparing two states of one model costs little, and tells whether it was changed in between. Writes through
    ``.data``, and in inference mode, change no version. The settings of your own modules are left out: what such a
    module counts may change.
    """
    modules = [
        (path, id(module), module.training, settings_of(module) if of_lipnet_or_torch(module) else None)
        for path, module in model.named_modules()
    ]
    tensors = [*model.parameters(), *model.buffers()]
    versions = [(each.data_ptr(), None if each.is_inference() else each._version) for each in tensors]
    return [modules, versions]


def model_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's modules, their settings, and the values of all parameters and buffers.

    It is the same in every process. A state dict alone leaves out settings, activations, and buffers that are not
    saved: two models with other functions may share it.
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules(remove_duplicate=False):
        kind = type(module)
        digest.update(repr((path, kind.__module__, kind.__qualname__, settings_of(module))).encode())
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    digest.update(tensors_sha256(tensors).encode())
    return digest.hexdigest()


def differing_part(model: nn.Module, other: nn.Module) -> str | None:
    """Return the first difference of two models in modules or settings, in words; None if there is none.

    The settings of your own modules are left out.

    Example:
        >>> differing_part(nn.Sequential(nn.ELU(2.0)), nn.Sequential(nn.ELU()))
        '0.alpha is 2.0 in place of 1.0'
    """
    here, there = (dict(each.named_modules(remove_duplicate=False)) for each in (model, other))
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
    """Return the texts of a module's plain settings by name: numbers, texts, and tuples or lists of them."""
    return {
        name: repr(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _IRRELEVANT and _is_plain(value)
    }


def of_lipnet_or_torch(module: nn.Module) -> bool:
    """Tell whether a module's class is one of lipnet or torch."""
    return type(module).__module__.startswith(("lipnet.", "torch."))


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
