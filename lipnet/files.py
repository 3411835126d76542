"""Atomic writing of files: the whole content or no change."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Attempts to rename a new set to its final name, which fails while another process moves its own set from there.
_ATTEMPTS = 100


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


def check_places(*paths: Path) -> None:
    """Raise IsADirectoryError if a folder is in the place of a file to write."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(f"{path} must be a file or not exist, got a folder: move it, or remove it")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    The bytes are flushed to the disk first, and the replacement is one step. After an error the temporary file is
    removed and ``path`` is unchanged. A kill leaves the old file or the new one; it may leave the temporary file
    ``NAME.*.partial``, too.

    Args:
        path: the file to write; missing parent folders are created.

    Yields:
        The temporary file, opened for writing bytes.

    Raises:
        IsADirectoryError: if ``path`` is a folder.
    """
    check_places(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary(path)
    try:
        with naming(path), partial.open("xb") as file:
            yield file
            _flush(file)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


@contextmanager
def atomic_writes(*paths: Path, outdated: Sequence[Path] = ()) -> Iterator[list[BinaryIO]]:
    """Open temporary files that replace all of ``paths`` when the block ends without an error, or none of them.

    The files are written to a temporary folder ``LAST.*.partial`` and flushed to the disk, where LAST is the name of
    the last path. Renaming this folder to ``LAST.replacement`` makes the new set final. Then its files move to
    ``paths`` one by one, and the empty folder is removed.

    A kill before the renaming leaves all old files, and perhaps the temporary folder, which can be deleted. A kill
    after it leaves old files beside new ones, and the rest of the new set in ``LAST.replacement``. `complete_writes`
    moves the rest, and so does the next call for the same paths. Readers of the set call `complete_writes` first.

    Args:
        paths: files with different names in one folder, which is created if it is missing.
        outdated: files about the old set, which are removed once the new set is final.

    Yields:
        The temporary files, opened for writing bytes.

    Raises:
        IsADirectoryError: if one of ``paths`` is a folder; nothing is changed.
        OSError: as for `complete_writes`.
    """
    check_places(*paths)
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary(paths[-1])
    partial.mkdir()
    try:
        with naming(paths[-1]), ExitStack() as stack:
            files: list[BinaryIO] = [stack.enter_context((partial / path.name).open("xb")) for path in paths]
            yield files
            for file in files:
                _flush(file)
        _flush_folder(partial)
        check_places(*paths)
        _make_final(partial, paths, outdated)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    complete_writes(*paths, outdated=outdated)


def complete_writes(*paths: Path, outdated: Sequence[Path] = ()) -> None:
    """Move the rest of a new set of files to ``paths``, if a killed `atomic_writes` left one.

    Several processes may call this at once.

    Args:
        paths, outdated: as they were given to `atomic_writes`.

    Raises:
        OSError: if the files cannot be moved, for instance in a folder that is read-only.
    """
    replacement = _replacement(paths[-1])
    # A link may lead to a folder with files of other owners.
    if replacement.is_symlink() or not replacement.is_dir():
        return
    try:
        # A folder without files of a new set is only left over, and outdates nothing.
        if any((replacement / path.name).exists() for path in paths):
            for path in outdated:
                path.unlink(missing_ok=True)
        for path in paths:
            with suppress(FileNotFoundError):  # It has been moved already.
                os.replace(replacement / path.name, path)
        _flush_folder(paths[-1].parent)
    except OSError as error:
        raise OSError(
            f"{replacement} holds new files that must be moved to {replacement.parent}, which a kill interrupted: make "
            f"the move possible, got {error}"
        ) from error
    # Another process may have removed the folder, or put its own new set there.
    with suppress(OSError):
        os.rmdir(replacement)


def _make_final(partial: Path, paths: tuple[Path, ...], outdated: Sequence[Path]) -> None:
    """Rename the folder of a new set to its final name, which succeeds for one process at a time."""
    replacement = _replacement(paths[-1])
    for _ in range(_ATTEMPTS):
        complete_writes(*paths, outdated=outdated)
        try:
            os.rename(partial, replacement)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            _flush_folder(replacement.parent)
            return
    raise FileExistsError(f"{replacement} must be an empty folder or not exist: move it, or remove it")


def _replacement(last: Path) -> Path:
    return last.with_name(f"{last.name}.replacement")


def _temporary(path: Path) -> Path:
    """Return a new name beside ``path``, which no other process or thread uses."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a path to errors of the system that name none, as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


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
