"""Adapter files: the trained tensors in the safetensors format, with configuration and SHA-256 in the metadata."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.files import atomic_write
from lipnet.structured.adapters.attachment import build_updates, install
from lipnet.structured.adapters.config import config_from_plain, config_to_plain
from lipnet.structured.adapters.config_base import AdapterConfig
from lipnet.structured.adapters.sites import Site, all_sites, names_in_words, refuse
from lipnet.structured.adapters.state import (
    attachment_of,
    base_parameters,
    check_new_name,
    name_or_active,
    own_tensors,
    restore,
    updates_of,
)
from lipnet.structured.adapters.switching import scale_adapter
from lipnet.tensor_file import parse_tensor_file, tensor_file_bytes

_KEY = "lipnet_adapter"
# Format 2 adds parameters outside the adapter, settings by weight and a strength. Other files stay in format 1.
_FORMATS = (1, 2)
_WEIGHT, _BUFFER, _PARAMETER = "weight:", "buffer:", "parameter:"


@dataclass(frozen=True)
class _Content:
    """The content of an adapter file.

    Attributes:
        name, config: name and configuration of the adapter.
        shapes: shapes of the adapted weights.
        special: configurations of weights that have another one than ``config``.
        strength: t of `scale_adapter`.
        states: compact states of the updates, by weight.
        buffers: buffers of the model that differ from the base's.
        parameters: parameters outside the adapter.
    """

    name: str
    config: AdapterConfig
    shapes: dict[str, tuple[int, ...]]
    special: dict[str, AdapterConfig]
    strength: float
    states: dict[str, dict[str, Tensor]]
    buffers: dict[str, Tensor]
    parameters: dict[str, Tensor]


def save_adapter(
    model: nn.Module, path: str | Path, name: str | None = None, *, along: str | Sequence[str] = ()
) -> None:
    """Write an adapter to a file, atomically.

    For orthogonal adapters the file holds the upper triangles of the skew-symmetric matrices, less than half as many
    numbers as are trained. It also holds the model's buffers that differ from the base's, such as the running
    statistics of batch normalisation, and the SHA-256 of its content.

    Args:
        model: a model with adapters.
        path: the file, by convention ``*.safetensors``.
        name: the adapter; the one in use by default.
        along: names of modules or parameters outside the adapter to save with it, such as a new head, with wildcards as
            in `attach`. Parameters that came with a file are always saved.

    Raises:
        ValueError: if the model has no such adapter, or none in use; if a name in ``along`` matches no parameter; if a
            parameter outside the adapter requires a gradient but would not be saved.
    """
    name = name_or_active(model, name)
    updates, attachment = updates_of(model, name), attachment_of(model)
    tensors = {
        f"{_WEIGHT}{site.name}:{key}": value
        for site, update in updates
        for key, value in update.compact_state().items()
    }
    own, base = own_tensors(model, name), own_tensors(model, None)
    parameters = _parameters_along(model, name, (along,) if isinstance(along, str) else along)
    changed = {key: own[key] for key in own.keys() - attachment.along.keys() if not torch.equal(own[key], base[key])}
    tensors |= {_BUFFER + key: value for key, value in changed.items()}
    tensors |= {_PARAMETER + key: own.get(key, value.detach()) for key, value in parameters.items()}
    special = {weight: config_to_plain(config) for weight, config in attachment.special[name].items()}
    strength = updates[0][1].strength
    description: dict[str, Any] = {
        "format": 2 if parameters or special or strength != 1 else 1,
        "name": name,
        "config": config_to_plain(attachment.configs[name]),
        "weights": {site.name: list(site.original.shape) for site, _ in updates},
    }
    if description["format"] == 2:
        description |= {"special": special, "strength": strength}
    with atomic_write(Path(path)) as file:
        file.write(tensor_file_bytes(tensors, description, _KEY))


def load_adapter(model: nn.Module, path: str | Path, name: str | None = None) -> nn.Module:
    """Attach the adapter in a file to a model, in place, and use it.

    Parameters outside the adapter that the file holds become the adapter's own: `use` exchanges them, and `detach`
    restores the base's.

    Args:
        model: a model whose weights have the names and shapes that the adapter was trained on; it may have other
            adapters.
        path: a file of `save_adapter`. Nothing in it is executed.
        name: a new name for the adapter; by default the name under which it was saved.

    Returns:
        The model. With the same base weights it computes, bit for bit, what the saved model did.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or not an adapter file, if it is for another model, or if the name is taken.
            The model is then unchanged.

    Warns:
        UserWarning: the file has no SHA-256, because an earlier version wrote it; damage may go unnoticed.
    """
    path = Path(path)
    content = _read(path)
    name = content.name if name is None else name
    check_new_name(model, name)
    configs = {site: content.special.get(site.name, content.config) for site in _sites_for(model, content, path)}
    updates = build_updates(configs)
    for site, update in updates.items():
        try:
            update.load_compact_state(content.states.get(site.name, {}))
        except ValueError as error:
            raise ValueError(f"{path} does not hold what {configs[site]} needs for {site.name}: {error}") from error
    _check_shapes("buffer", content.buffers, dict(model.named_buffers()), path)
    _check_shapes("parameter", content.parameters, base_parameters(model), path)
    install(model, name, content.config, configs, updates)
    _adopt(model, name, list(content.parameters))
    restore(model, content.buffers | content.parameters)
    return scale_adapter(model, content.strength)


def _parameters_along(model: nn.Module, name: str, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters outside an adapter that go into its file; raise ValueError if a trained one is missing."""
    attachment, parameters = attachment_of(model), base_parameters(model)
    # Names of modules count, too: heads.head.weight lies in heads and in heads.head.
    paths = {key: list(accumulate(key.split("."), "{}.{}".format)) for key in parameters}
    chosen = {key for key in parameters if name in attachment.along.get(key, ())}
    for pattern in patterns:
        matching = {key for key in parameters if any(fnmatchcase(path, pattern) for path in paths[key])}
        if not matching:
            raise ValueError(f"along must name modules or parameters, got {pattern!r}, which matches none")
        chosen |= matching
    forgotten = [key for key, value in parameters.items() if value.requires_grad and key not in chosen]
    if forgotten:
        raise ValueError(
            f"{names_in_words(forgotten)} would be lost: trained, but outside the adapter; name the modules in "
            "save_adapter(..., along=[...]), or freeze them"
        )
    return {key: value for key, value in parameters.items() if key in chosen}


def _adopt(model: nn.Module, name: str, keys: Sequence[str]) -> None:
    """Give every adapter its own copy of these parameters, and let this adapter train them."""
    attachment, parameters = attachment_of(model), base_parameters(model)
    for key in keys:
        for tensors in attachment.tensors.values():
            tensors.setdefault(key, parameters[key].detach().clone())
        sharing = set(attachment.configs) if parameters[key].requires_grad else {name}
        attachment.along.setdefault(key, sharing).add(name)
        parameters[key].requires_grad_(True)


def _sites_for(model: nn.Module, content: _Content, path: Path) -> list[Site]:
    """Return the sites that the file has updates for; raise ValueError for another model."""
    sites = {site.name: site for site in all_sites(model)}
    missing = [weight for weight in content.shapes if weight not in sites]
    if missing:
        raise ValueError(
            f"{path} is an adapter for another model: it adapts {names_in_words(missing)}, and there are "
            f"{names_in_words(list(sites))}"
        )
    chosen = [sites[weight] for weight in content.shapes]
    refuse(chosen, [site.obstacle() for site in chosen])
    _check_shapes("weight", content.shapes, {site.name: site.original for site in chosen}, path)
    return chosen


def _check_shapes(
    kind: str, expected: Mapping[str, Tensor | tuple[int, ...]], present: Mapping[str, Tensor], path: Path
) -> None:
    """Raise ValueError unless the model has tensors of these names and shapes."""
    for name, value in expected.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        found = tuple(present[name].shape) if name in present else "none of this name"
        if found != shape:
            raise ValueError(
                f"{path} is an adapter for another model: it needs the {kind} {name} of shape {shape}, got {found}"
            )


def _read(path: Path) -> _Content:
    """Read an adapter file; errors as in `load_adapter`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no adapter file {path.absolute()}")
    try:
        file = parse_tensor_file(path.read_bytes(), _KEY)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an adapter file: {error}") from error
    try:
        content = _content(file.description, file.tensors)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no adapter file that this version of lipnet reads: {error!r}") from error
    if not file.has_sha256:
        warnings.warn(f"{path} carries no SHA-256: damage to it would go unnoticed", stacklevel=3)
    return content


def _content(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Content:
    """Return the content of a file from its metadata and tensors; the caller turns errors into its own."""
    if description["format"] not in _FORMATS:
        raise ValueError(f"format must be one of {_FORMATS}, got {description['format']}")
    strength = float(description.get("strength", 1.0))
    if not isfinite(strength):
        raise ValueError(f"strength must be finite, got {strength}")

    def stripped(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    states: dict[str, dict[str, Tensor]] = {}
    for key, value in stripped(_WEIGHT).items():
        weight, _, parameter = key.rpartition(":")
        states.setdefault(weight, {})[parameter] = value
    shapes = {weight: tuple(shape) for weight, shape in description["weights"].items()}
    if states.keys() - shapes.keys():
        raise ValueError(f"it has tensors for {sorted(states.keys() - shapes.keys())}, which it does not describe")
    return _Content(
        name=description["name"],
        config=config_from_plain(description["config"]),
        shapes=shapes,
        special={weight: config_from_plain(plain) for weight, plain in description.get("special", {}).items()},
        strength=strength,
        states=states,
        buffers=stripped(_BUFFER),
        parameters=stripped(_PARAMETER),
    )
