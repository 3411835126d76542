"""Save, find and load pretrained networks: folders with the layout of a hub repository."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.files import atomic_writes, complete_writes, resolve_path
from lipnet.functional.digest import json_bytes, json_sha256, tensors_sha256
from lipnet.models.archive import CheckpointError
from lipnet.models.card import model_card
from lipnet.models.checkpoint import (
    DESCRIPTION,
    Checkpoint,
    checked_content,
    load_checkpoint,
    read_checkpoint,
    unwrapped,
)
from lipnet.models.compact import PACKED, compact_weights, pack
from lipnet.models.hub import download, is_repository
from lipnet.tensor_file import tensor_file_bytes

CARD, CONFIG, WEIGHTS = FILES = ("README.md", "config.json", "model.safetensors")
_PACKAGE = Path(__file__).parents[1]
# The folder of each shipped network in results/ of a checkout; an installed package has it as lipnet/weights/NAME.
SHIPPED = {
    "digits-quickstart": "quickstart",
    "digits-cpu": "cpu/digits_seed0",
    "cifar100-cpu30": "cpu/cifar100_seed0/compact",
}


def _shipped_folder(name: str) -> Path:
    installed = _PACKAGE / "weights" / name
    return installed if installed.is_dir() else _PACKAGE.parent / "results" / SHIPPED[name]


PRETRAINED: dict[str, Path] = {name: _shipped_folder(name) for name in SHIPPED}
"""The folder of each network that comes with lipnet, by the name that `load_pretrained` takes."""


def load_pretrained(name_or_folder: str | Path, *, trust: Sequence[str] = (), revision: str | None = None) -> nn.Module:
    """Load a pretrained network, in evaluation mode, on the CPU, in the dtype of its weights.

    Args:
        name_or_folder: a name in `PRETRAINED`, a folder written by `save_pretrained`, or ``owner/name``, a repository
            of the Hugging Face hub (extra ``hub``).
        trust: packages besides lipnet and torch.nn whose modules may be built; see `build_model`.
        revision: branch, tag or commit of the repository; for repositories only.

    Returns:
        The network, from pixels in [0, 1] to logits. Its certificates equal the saved network's, bit for bit.

    Raises:
        FileNotFoundError: there is no such name, folder or repository.
        CheckpointError: as for `load_checkpoint`, or config.json differs from the configuration in the weights.
        ValueError: a revision is given for something other than a repository.
        ImportError: a repository is named, but the extra ``hub`` is not installed.

    Example:
        >>> model = load_pretrained("digits-quickstart")
        >>> type(model).__name__, model.training
        ('LipConvNet', False)
    """
    return load_checkpoint(pretrained_file(name_or_folder, revision), trust).model


def complete_network(folder: Path) -> None:
    """Finish replacing a saved network, if a kill interrupted it; errors as `lipnet.files.complete_writes`."""
    complete_writes(*(folder / each for each in FILES))


def pretrained_file(name_or_folder: str | Path, revision: str | None = None) -> Path:
    """Return the checkpoint file of a pretrained network; arguments and errors as for `load_pretrained`."""
    folder = PRETRAINED.get(str(name_or_folder)) or resolve_path(name_or_folder)
    if not folder.exists() and is_repository(str(name_or_folder)):
        folder = download(str(name_or_folder), [WEIGHTS, CONFIG, CARD], revision)
    elif revision is not None:
        raise ValueError(f"revision is only for repositories on the hub, got {revision!r} for {name_or_folder}")
    complete_network(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        known = ", ".join(PRETRAINED) or "none"
        raise FileNotFoundError(
            f"no pretrained network {str(name_or_folder)!r}: it is not a shipped name ({known}), and {folder} is not a "
            f"folder with {WEIGHTS}"
        )
    _check_config(folder)
    return file


def save_pretrained(
    model: Checkpoint | nn.Module,
    folder: str | Path,
    model_config: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    summary: Mapping[str, Any] | None = None,
    compact: bool = False,
    trust: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a network as model.safetensors, config.json and README.md: the layout of a hub repository.

    model.safetensors is a complete checkpoint with its own SHA-256: `load_checkpoint`, ``lipnet-certify`` and
    ``lipnet-export`` read it. The three files appear together or not at all, as `lipnet.files.atomic_writes` describes.

    Args:
        model: a `Checkpoint`, which knows its configuration and data, or a network built by
            ``build_model(model_config)``.
        folder: destination; created if it is missing.
        model_config, dataset: as for `save_checkpoint`; for a plain network only.
        name: name in the model card's example of `load_pretrained`, such as ``owner/name``; default: the folder's name.
        summary: the content of a summary.json of exactly this checkpoint, for the card's certified table; for a
            `Checkpoint` only.
        compact: write the weights of skew-orthogonal convolutions without their redundant half, in 16 bits. The file is
            three to five times smaller, and the network slightly another one: a summary must be of the written network.
            Writing a network again that was compact already changes nothing.
        trust: as for `save_checkpoint`.
        overwrite: replace the three files if the folder holds any of them.

    Raises:
        FileExistsError: the folder holds one of the files already, unless ``overwrite``.
        TypeError: a plain network without ``model_config`` and ``dataset`` or with a summary, or a `Checkpoint` with
            ``model_config`` or ``dataset``.
        IsADirectoryError: a folder is in the place of one of the files; nothing is changed.
        ValueError: the summary is of another checkpoint, or was changed: its SHA-256 does not fit its content. Its
            figures are not compared with certificates, as ``lipnet-export`` does.
        CheckpointError: `load_checkpoint` could not read the file; nothing is written.
    """
    folder = resolve_path(folder)
    if isinstance(model, Checkpoint):
        if model_config is not None or dataset is not None:
            raise TypeError("model_config and dataset must be None for a Checkpoint, which has its own")
        model_config, dataset = model.model_config, model.dataset
    if model_config is None or dataset is None:
        raise TypeError("save_pretrained needs a Checkpoint, or a network with its model_config and dataset")
    complete_network(folder)
    taken = [each for each in (WEIGHTS, CONFIG, CARD) if (folder / each).exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{folder} already holds {', '.join(taken)}; choose another folder, or overwrite=True")
    network = unwrapped(model.model if isinstance(model, Checkpoint) else model)
    state, description = checked_content(folder / WEIGHTS, network, model_config, dataset, trust)
    if compact:
        state = compact_weights(network, state)
    if summary is not None:
        _check_summary(summary, model, state)
    if compact:
        state, description[PACKED] = pack(state)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = model_card(name or folder.name, description, parameters, summary)
    with atomic_writes(*(folder / each for each in FILES)) as (card_file, config_file, weights_file):
        card_file.write(card.encode())
        config_file.write(json_bytes(description))
        weights_file.write(tensor_file_bytes(state, description, DESCRIPTION))


def _check_summary(summary: Mapping[str, Any], model: Checkpoint | nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise an error unless a summary is intact and of this checkpoint.

    A card must not state another network's figures. Equal weights are not enough: networks with other settings or
    activations may have them, too.
    """
    if not isinstance(model, Checkpoint):
        raise TypeError("a summary is of a Checkpoint, whose SHA-256 it states: pass the result of load_checkpoint")
    if summary.get("sha256") != json_sha256(summary):
        raise ValueError(
            f"summary must be as it was written: its sha256 must be {json_sha256(summary)}, got "
            f"{summary.get('sha256')}; read summary.json again"
        )
    dtype = getattr(torch, str(summary.get("dtype")), None)
    weights = tensors_sha256(state, dtype if isinstance(dtype, torch.dtype) else None)
    for name, found in {"checkpoint_sha256": model.sha256, "weights_sha256": weights}.items():
        if summary.get(name) != found:
            raise ValueError(
                f"summary must be of this checkpoint: {name} must be {found}, got {summary.get(name)}; certify it again"
            )


def _check_config(folder: Path) -> None:
    """Raise CheckpointError if there is a config.json that differs from the description in model.safetensors."""
    path = folder / CONFIG
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it cannot be read as JSON ({error})") from error
    if config != read_checkpoint(folder / WEIGHTS)[0][DESCRIPTION]:
        raise CheckpointError(f"{path} differs from the configuration in {WEIGHTS}: one of them was changed")
