"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place only when the block ends without an error.

    The bytes go to a temporary file beside it, are flushed to the disk, and replace ``path`` in one step. After an
    error the temporary file is gone, and what ``path`` held is as it was.

    Args:
        path: where the file shall be; missing parent folders are made.

    Yields:
        The temporary file, opened for writing bytes.
    """
    with _written(path) as file:
        yield file
        _flush(file)
        os.replace(file.name, path)
    _flush_folder(path.parent)


@contextmanager
def atomic_writes(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Open files that belong together: all take their places when the block ends without an error, or none does.

    All are on the disk before the first of them takes its place. The last one stands for all: what it held before is
    removed first, so that it is there only if the others are those which belong to it.

    Args:
        paths: in one folder, which is made if it is missing.

    Yields:
        The temporary files, opened for writing bytes.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(_written(path)) for path in paths]
        yield files
        for file in files:
            _flush(file)
        paths[-1].unlink(missing_ok=True)
        for file, path in zip(files, paths, strict=True):
            os.replace(file.name, path)
    _flush_folder(paths[-1].parent)


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside a path, which is gone at the end of the block unless it was renamed."""
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
    """Make the renaming itself durable, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
