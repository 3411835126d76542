"""Files of ``torch.save`` that carry their own SHA-256, and are only read if it matches."""

import hashlib
import pickle
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from lipnet.files import atomic_write

_LABEL = b"lipnet sha256 "
_SEAL_LENGTH = len(_LABEL) + 64
# A zip archive ends in a record of 22 bytes. Its last two bytes are the length of the comment that follows.
_END, _END_LENGTH = b"PK\x05\x06", 22
# Exceptions that the readers of the archive and of its content raise for damaged or foreign bytes.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
)


class CheckpointError(ValueError):
    """A file that is not a checkpoint of lipnet, or a damaged one."""


def write_archive(path: str | Path, content: Any) -> None:
    """Write ``content`` as ``torch.save`` does, atomically, with its SHA-256 as the comment of the archive.

    ``torch.load`` reads the file and ignores the comment.
    """
    buffer = BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    if bytes(data[-_END_LENGTH:][:4]) != _END or bytes(data[-2:]) != b"\0\0":
        raise RuntimeError("torch.save must write a zip archive without a comment, got another file")
    data[-2:] = struct.pack("<H", _SEAL_LENGTH)
    with atomic_write(Path(path)) as file:
        file.write(data)
        file.write(_seal(data))


def read_archive(path: str | Path) -> tuple[Any, str]:
    """Read an intact file of ``torch.save`` onto the CPU, without executing anything from it.

    The content must match the SHA-256 that `write_archive` wrote and the archive's own checksums. A file written by
    ``torch.save`` only has the latter and is read with a warning. Compressed archives are refused, so reading takes no
    more memory than the file's size suggests.

    Returns:
        The content, and the SHA-256 of the whole file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, damaged, or holds anything but tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path.absolute()}")
    data = path.read_bytes()
    if not data:
        raise CheckpointError(f"{path} is empty: it is not a checkpoint")
    try:
        sealed = _check_seal(data)
        with ZipFile(BytesIO(data)) as archive:
            _check_records(archive, len(data))
        content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} ({len(data)} bytes) cannot be read as a checkpoint: {_reason(data, error)}"
        ) from error
    if not sealed:
        warnings.warn(f"{path} carries no SHA-256: only its CRC-32 checksums were compared", stacklevel=2)
    return content, hashlib.sha256(data).hexdigest()


def _check_seal(data: bytes) -> bool:
    """Return whether a file carries its SHA-256; raise if that does not match or anything else follows the archive."""
    end = data.rfind(_END) + _END_LENGTH
    body, comment = memoryview(data)[:end], data[end:]
    if end < _END_LENGTH or bytes(body[-2:]) != struct.pack("<H", len(comment)):
        raise BadZipFile("the archive does not end where it says")
    if not comment:
        return False
    if comment != _seal(body):
        raise BadZipFile("its content does not match its SHA-256")
    return True


def _check_records(archive: ZipFile, size: int) -> None:
    records = archive.infolist()
    if any(record.compress_type != ZIP_STORED for record in records) or sum(r.file_size for r in records) > size:
        raise BadZipFile("its records are compressed or overlap, which torch.save never writes")
    # torch does not compare the checksums of the records: it would read a flipped bit as another weight.
    damaged = archive.testzip()
    if damaged is not None:
        raise BadZipFile(f"the checksum of {damaged} is wrong")


def _reason(data: bytes, error: BaseException) -> str:
    """Return in one line why a file cannot be read; torch's message has several lines, with terminal codes."""
    if isinstance(error, pickle.UnpicklingError):
        try:
            classes = get_unsafe_globals_in_checkpoint(BytesIO(data))
        except UNREADABLE:
            classes = []
        if classes:
            return (
                f"it holds Python objects ({', '.join(classes[:3])}), but lipnet only loads tensors and plain "
                "containers; write weights with lipnet.models.save_checkpoint"
            )
        return "truncated or damaged? (its content is not what torch.save writes)"
    return f"truncated or damaged? ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _seal(body: memoryview) -> bytes:
    return _LABEL + hashlib.sha256(body).hexdigest().encode()
