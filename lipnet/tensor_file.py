"""Files in the safetensors format that describe themselves and state their own SHA-256."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lipnet.functional.digest import SHA256_TO_COME, states_own_sha256, with_own_sha256

SUFFIX = ".safetensors"
_CHECKSUM = "sha256"
_HEADER_LENGTH = 8


class TensorFile(NamedTuple):
    """Content of a file.

    Attributes:
        tensors: on the CPU, in the order of their names.
        description: JSON values, without the SHA-256.
        has_sha256: whether the file states its SHA-256, which is then right.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any]
    has_sha256: bool


def tensor_file_bytes(tensors: Mapping[str, Tensor], description: Mapping[str, Any], key: str) -> bytes:
    """Return the content of a file.

    Args:
        tensors: by name. They may be views or share memory, because they are copied to the CPU.
        description: JSON values.
        key: name of the description in the metadata, which tells kinds of files apart.

    Raises:
        TypeError: the description would not survive JSON, for example with numbers as keys.
    """
    if json.loads(json.dumps(description)) != description:
        raise TypeError(f"the description must hold JSON values, with strings as keys, got {description}")
    # The SHA-256 comes first, so that no other text like the one in its place comes before it. A single key:
    # safetensors writes several in a random order, so equal contents would be different files.
    metadata = {key: json.dumps({_CHECKSUM: SHA256_TO_COME, **description})}
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return with_own_sha256(save(copies, metadata))


def parse_tensor_file(data: bytes, key: str) -> TensorFile:
    """Return the content of a file; nothing in it is executed.

    Args:
        data: the bytes of the whole file.
        key: name of the description in the metadata.

    Raises:
        ValueError: the file is damaged, or another program wrote it. The text is the reason alone, without the path.
    """
    try:
        # Sorted, so that an error names the same tensor everywhere.
        tensors = dict(sorted(load(data).items()))
        end = _HEADER_LENGTH + int.from_bytes(data[:_HEADER_LENGTH], "little")
        metadata = json.loads(data[_HEADER_LENGTH:end]).get("__metadata__", {})
        description = json.loads(metadata[key])
        stated = description.pop(_CHECKSUM, None)
        intact = stated is None or states_own_sha256(data, stated)
    except (SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"truncated, damaged, or not written by lipnet? ({type(error).__name__}: {error})") from error
    if not intact:
        raise ValueError("damaged: its content does not match its SHA-256")
    return TensorFile(tensors, description, stated is not None)
