"""Files of torch that carry their own SHA-256, and that are read only if it is theirs."""

import hashlib
import pickle
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from lipnet.files import atomic_write

_LABEL = b"lipnet sha256 "
_SEAL_LENGTH = len(_LABEL) + 64
# A zip archive ends in a record of 22 bytes, the last two of which are the length of the comment that follows it.
_END, _END_LENGTH = b"PK\x05\x06", 22
# What the readers of the archive and of its content raise for bytes that are none of their own.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
)


class CheckpointError(ValueError):
    """A file that is no checkpoint of lipnet, or a damaged one."""


def write_archive(path: str | Path, content: Any) -> None:
    """Write what ``torch.save`` would, whole or not at all, with the SHA-256 of all of it as the archive's comment.

    The file is one of torch: ``torch.load`` reads it, without looking at the comment.
    """
    buffer = BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    if bytes(data[-_END_LENGTH:][:4]) != _END or bytes(data[-2:]) != b"\0\0":
        raise RuntimeError("torch.save wrote no zip archive, or one that has a comment already")
    data[-2:] = struct.pack("<H", _SEAL_LENGTH)
    with atomic_write(Path(path)) as file:
        file.write(data)
        file.write(_seal(data))


def read_archive(path: str | Path) -> tuple[Any, str]:
    """What an intact file of torch holds, on the CPU, executing nothing from it, and the SHA-256 of the whole file.

    Every read compares the SHA-256 that `write_archive` has put into the file, and the archive's own checksums. A file
    of ``torch.save`` carries the latter alone: it is read with a warning.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is empty or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path.absolute()}")
    data = path.read_bytes()
    if not data:
        raise CheckpointError(f"{path} is empty: it is no checkpoint")
    try:
        sealed = _check_seal(data)
        # torch does not compare the checksums of the records: a flipped bit would be read as another weight.
        damaged = ZipFile(BytesIO(data)).testzip()
        if damaged is not None:
            raise BadZipFile(f"the checksum of {damaged} is wrong")
        content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} ({len(data)} bytes) cannot be read as a checkpoint: truncated or damaged? ({reason})"
        ) from error
    if not sealed:
        warnings.warn(f"{path} carries no SHA-256: its CRC-32 checksums alone were compared", stacklevel=2)
    return content, hashlib.sha256(data).hexdigest()


def _check_seal(data: bytes) -> bool:
    """Whether a file carries its SHA-256; one that is not its own, or anything else behind the archive, is an error."""
    end = data.rfind(_END) + _END_LENGTH
    body, comment = memoryview(data)[:end], data[end:]
    if end < _END_LENGTH or bytes(body[-2:]) != struct.pack("<H", len(comment)):
        raise BadZipFile("the archive does not end where it says")
    if not comment:
        return False
    if comment != _seal(body):
        raise BadZipFile("the SHA-256 that it carries is not its own")
    return True


def _seal(body: memoryview) -> bytes:
    return _LABEL + hashlib.sha256(body).hexdigest().encode()
