"""Checkpoints that describe themselves: what was trained can be rebuilt from the file alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipnet import __version__
from lipnet.models.archive import CheckpointError, read_archive, write_archive
from lipnet.models.build import build_model

DESCRIPTION = "lipnet"
_FORMAT = 1
_PREFIX = "model."


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds, checked and rebuilt.

    Attributes:
        model: the network with its trained weights, in evaluation mode, on the CPU.
        model_config: the plain configuration that it was built from.
        dataset: what it was trained on: ``name``, and the settings of the split.
        sha256: of the file's bytes.
    """

    model: nn.Module
    model_config: dict[str, Any]
    dataset: dict[str, Any]
    sha256: str


def describe(model_config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says about itself under the key ``"lipnet"``.

    Raises:
        TypeError: for anything but mappings, sequences, texts, numbers and None, which could not be read back safely.
    """
    return {"format": _FORMAT, "version": __version__, "model": _plain(model_config), "dataset": _plain(dataset)}


def save_checkpoint(
    path: str | Path, model: nn.Module, model_config: Mapping[str, Any], dataset: Mapping[str, Any]
) -> None:
    """Write a model so that `load_checkpoint` reads it; for those who train without Lightning.

    Args:
        path: where to; written whole or not at all, with its SHA-256 inside.
        model: the network, built by ``build_model(model_config)``.
        model_config: plain containers with Hydra's ``_target_``.
        dataset: at least ``{"name": "cifar100" | "cifar10" | "digits"}``.
    """
    state = {_PREFIX + name: value for name, value in model.state_dict().items()}
    write_archive(path, {"state_dict": state, DESCRIPTION: describe(model_config, dataset)})


def load_checkpoint(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint and rebuild its model, executing nothing from the file.

    Args:
        path: a file written by lipnet's training or by `save_checkpoint`.
        trust: packages of one's own whose modules the checkpoint may name; never for a stranger's file.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is empty, damaged, no checkpoint of lipnet, or its weights do not fit its model.
        ValueError: if its configuration names a target that is not allowed.
    """
    content, sha256 = read_checkpoint(path)
    description = content[DESCRIPTION]
    model = build_model(description["model"], trust)
    state = {name.removeprefix(_PREFIX): value for name, value in content["state_dict"].items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the model that the file describes: {error}") from error
    return Checkpoint(model.eval(), description["model"], description["dataset"], sha256)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], str]:
    """The content of a checkpoint file, on the CPU, and the file's SHA-256; errors as in `load_checkpoint`."""
    content, sha256 = read_archive(path)
    _check_content(Path(path), content)
    return content, sha256


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"a checkpoint describes itself by plain containers and values, got {type(value).__name__} {value}")


def _check_content(path: Path, content: Any) -> None:
    description = content.get(DESCRIPTION) if isinstance(content, Mapping) else None
    if not isinstance(description, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(f"{path} is no checkpoint of lipnet: it does not describe its model")
    if description.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {description.get('format')}, this version of lipnet reads {_FORMAT}")
    missing = [key for key in ("model", "dataset") if not isinstance(description.get(key), Mapping)]
    if missing or "name" not in description["dataset"]:
        raise CheckpointError(f"{path} does not describe its {' and '.join(missing) or 'dataset'}")
    if not all(isinstance(value, Tensor) for value in content["state_dict"].values()):
        raise CheckpointError(f"{path} holds weights that are no tensors")
