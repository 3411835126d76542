"""Adapter files: the trained part alone, in the safetensors format, with its configuration as JSON in the metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lipnet.files import atomic_write
from lipnet.structured.adapters.attachment import build_updates, install
from lipnet.structured.adapters.config import AdapterConfig, config_from_plain, config_to_plain
from lipnet.structured.adapters.sites import Site, all_sites, names_in_words, refuse
from lipnet.structured.adapters.state import (
    adapter_in_question,
    attached,
    buffers_of,
    check_new_name,
    restore_buffers,
    updates_of,
)

_KEY = "lipnet_adapter"
_FORMAT = 1
_WEIGHT, _BUFFER = "weight:", "buffer:"


@dataclass(frozen=True)
class _Content:
    """What an adapter file holds: shapes of the adapted weights, the updates' compact states, changed buffers."""

    name: str
    config: AdapterConfig
    shapes: dict[str, tuple[int, ...]]
    states: dict[str, dict[str, Tensor]]
    buffers: dict[str, Tensor]


def save_adapter(model: nn.Module, path: str | Path, name: str | None = None) -> None:
    """Write an adapter to a file, whole or not at all.

    Of orthogonal adapters the upper triangles of the skew-symmetric matrices are written, less than half of what is
    trained. The model's buffers that are others with this adapter than with the base, such as the running statistics
    of batch normalisation, go with it.

    Args:
        model: a model with adapters.
        path: where to, by custom ``*.safetensors``.
        name: which adapter; the one in use if not given.

    Raises:
        ValueError: if the model has no such adapter, or none in use.
    """
    name = adapter_in_question(model, name)
    updates = updates_of(model, name)
    tensors = {
        f"{_WEIGHT}{site.name}:{key}": value
        for site, update in updates
        for key, value in update.compact_state().items()
    }
    base = buffers_of(model, None)
    changed = {key: value for key, value in buffers_of(model, name).items() if not torch.equal(value, base[key])}
    tensors |= {_BUFFER + key: value for key, value in changed.items()}
    description = {
        "format": _FORMAT,
        "name": name,
        "config": config_to_plain(attached(model)[name]),
        "weights": {site.name: list(site.original.shape) for site, _ in updates},
    }
    # Copies: the format has no views and no two names for one storage.
    content = save({key: value.cpu().clone() for key, value in tensors.items()}, {_KEY: json.dumps(description)})
    with atomic_write(Path(path)) as file:
        file.write(content)


def load_adapter(model: nn.Module, path: str | Path, name: str | None = None) -> nn.Module:
    """Attach the adapter of a file to a model, in place, and use it.

    Args:
        model: with weights of the names and shapes that the adapter was trained on; it may have other adapters.
        path: a file of `save_adapter`. Nothing in it is executed.
        name: another name than the one that it was saved under.

    Returns:
        The model, which computes with the adapter what the other one did, bit for bit if it has the same weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or no adapter's, if it is one for another model, or if its name is taken. The model
            is then as it was.
    """
    content = _read(Path(path))
    name = content.name if name is None else name
    check_new_name(model, name)
    sites = _sites_for(model, content, Path(path))
    updates = build_updates(content.config, sites)
    for site, update in updates.items():
        try:
            update.load_compact_state(content.states.get(site.name, {}))
        except ValueError as error:
            raise ValueError(f"{path} does not hold what {content.config} needs for {site.name}: {error}") from error
    _check_buffers(model, content, Path(path))
    install(model, name, content.config, updates)
    restore_buffers(model, content.buffers)
    return model


def _sites_for(model: nn.Module, content: _Content, path: Path) -> list[Site]:
    """The sites that the file has updates for; ValueError for another model."""
    sites = {site.name: site for site in all_sites(model)}
    missing = [weight for weight in content.shapes if weight not in sites]
    if missing:
        raise ValueError(
            f"{path} is an adapter for another model: it adapts {names_in_words(missing)}, and there are "
            f"{names_in_words(list(sites))}"
        )
    chosen = [sites[weight] for weight in content.shapes]
    refuse({site.name: obstacle for site in chosen if (obstacle := site.obstacle()) is not None})
    for site in chosen:
        if tuple(site.original.shape) != content.shapes[site.name]:
            raise ValueError(
                f"{path} is an adapter for another model: {site.name} has shape {tuple(site.original.shape)}, the "
                f"adapter was made for {content.shapes[site.name]}"
            )
    return chosen


def _check_buffers(model: nn.Module, content: _Content, path: Path) -> None:
    present = {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
    for name, value in content.buffers.items():
        if present.get(name) != tuple(value.shape):
            raise ValueError(
                f"{path} is an adapter for another model: it brings the buffer {name} of shape {tuple(value.shape)}, "
                f"the model has {present.get(name, 'none of this name')}"
            )


def _read(path: Path) -> _Content:
    if not path.is_file():
        raise FileNotFoundError(f"there is no adapter file {path.absolute()}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as an adapter file: truncated or damaged? ({error})") from error
    try:
        return _content(json.loads(metadata[_KEY]), tensors)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no adapter file that this version of lipnet reads: {error!r}") from error


def _content(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Content:
    if description["format"] != _FORMAT:
        raise ValueError(f"format {description['format']}, this version reads {_FORMAT}")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_WEIGHT):
            weight, _, parameter = key.removeprefix(_WEIGHT).rpartition(":")
            states.setdefault(weight, {})[parameter] = value
    shapes = {weight: tuple(shape) for weight, shape in description["weights"].items()}
    if states.keys() - shapes.keys():
        raise ValueError(f"it has tensors for {sorted(states.keys() - shapes.keys())}, which it does not describe")
    buffers = {key.removeprefix(_BUFFER): value for key, value in tensors.items() if key.startswith(_BUFFER)}
    return _Content(description["name"], config_from_plain(description["config"]), shapes, states, buffers)
