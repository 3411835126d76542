"""Checkpoints in the safetensors format: weights, description and SHA-256 in one file, without pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lipnet.files import atomic_write
from lipnet.functional.digest import SHA256_TO_COME, states_own_sha256, with_own_sha256
from lipnet.models.archive import CheckpointError

SUFFIX = ".safetensors"
_KEY, _CHECKSUM = "lipnet", "sha256"
_HEADER_LENGTH = 8


def tensor_file_bytes(state: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """Return the content of a safetensors file with a description and the file's own SHA-256 in its metadata.

    Args:
        state: the weights. They may be views or share memory, because they are copied to the CPU.
        description: JSON values.

    Raises:
        TypeError: the description would not survive JSON, for example with numbers as keys.
    """
    if json.loads(json.dumps(description)) != description:
        raise TypeError("a safetensors file describes its model by JSON values, got keys that are not strings")
    # A single key: safetensors writes several in a random order, so equal checkpoints would be different files.
    metadata = {_KEY: json.dumps({_CHECKSUM: SHA256_TO_COME, **description})}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return with_own_sha256(save(tensors, metadata))


def write_tensor_file(path: str | Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the file of `tensor_file_bytes`, whole or not at all."""
    with atomic_write(Path(path)) as file:
        file.write(tensor_file_bytes(state, description))


def read_tensor_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Read an intact file of `write_tensor_file`; nothing in it is executed.

    Returns:
        The weights on the CPU, the description, and the SHA-256 of the whole file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or another program wrote it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path.absolute()}")
    data = path.read_bytes()
    try:
        state = load(data)
        length = int.from_bytes(data[:_HEADER_LENGTH], "little")
        metadata = json.loads(data[_HEADER_LENGTH : _HEADER_LENGTH + length]).get("__metadata__", {})
        description = json.loads(metadata[_KEY])
        intact = states_own_sha256(data, description.pop(_CHECKSUM))
    except (SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"truncated, damaged, or not written by lipnet? ({type(error).__name__}: {error})"
        raise CheckpointError(f"{path} ({len(data)} bytes) cannot be read as a checkpoint: {reason}") from error
    if not intact:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256")
    return state, description, hashlib.sha256(data).hexdigest()
