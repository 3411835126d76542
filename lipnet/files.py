"""Atomic writing of files: the whole content or no change."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


def resolve_path(path: str | Path) -> Path:
    """Return the absolute path, with ``~`` and ``~user`` expanded.

    Every path from a user is resolved once, before the working folder can change.

    Raises:
        ValueError: if the home folder that the path names is unknown.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path} names an unknown home folder: {error}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    The bytes are flushed to the disk first, and the replacement is one step. After an error the temporary file is
    removed and ``path`` is unchanged.

    Args:
        path: the file to write; missing parent folders are created.

    Yields:
        The temporary file, opened for writing bytes.
    """
    with _temporary(path) as file:
        yield file
        _flush(file)
        os.replace(file.name, path)
    _flush_folder(path.parent)


@contextmanager
def atomic_writes(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Open temporary files that replace all of ``paths`` when the block ends without an error, or none of them.

    All are flushed to the disk before the first replacement. The last path marks a complete set: its old file is
    removed before the others are replaced, so it never stands beside files of another set.

    Args:
        paths: files in one folder, which is created if it is missing.

    Yields:
        The temporary files, opened for writing bytes.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_temporary(path)) for path in paths]
        yield files
        for file in files:
            _flush(file)
        paths[-1].unlink(missing_ok=True)
        for file, path in zip(files, paths, strict=True):
            os.replace(file.name, path)
    _flush_folder(paths[-1].parent)


@contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``, and remove it at the end of the block unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
    finally:
        partial.unlink(missing_ok=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, on systems that can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
