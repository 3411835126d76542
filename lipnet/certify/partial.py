"""An unfinished certification on the disk: each batch is flushed to it as soon as it is certified."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from lipnet.certify.files import FILES, Row, complete_files
from lipnet.files import atomic_write, check_places, naming

PARTIAL = "certificates.partial"
"""Name of the folder of an unfinished certification, inside the folder of its files."""
SETTINGS = "settings.json"


class Batch(NamedTuple):
    """Certificates of a batch.

    Attributes:
        rows: a certificate for each image, in order.
        data_sha256: the SHA-256 of the images, labels and indices that were certified.
    """

    rows: tuple[Row, ...]
    data_sha256: str


Batches = dict[int, Batch]
"""Certified batches by their number in the data, from 0."""


def count_rows(batches: Batches) -> int:
    """Return the number of certificates in batches."""
    return sum(len(batch.rows) for batch in batches.values())


def existing_files(folder: Path) -> list[str]:
    """Return the names of a certification's files that the folder holds."""
    return [name for name in FILES if (folder / name).exists()]


def check_free(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Raise FileExistsError if a certification would overwrite something in the folder.

    If a kill interrupted the replacement of the folder's files, finish it first.

    Args:
        folder: destination of the certification's files.
        overwrite: allow the certification to replace them.
        resume: allow an unfinished certification, which it continues.

    Raises:
        IsADirectoryError: if a folder is in the place of a file to replace.
        NotADirectoryError: if a file is in the place of the unfinished certification's folder.
    """
    complete_files(folder)
    begun = (folder / PARTIAL).exists()
    if begun and not (folder / PARTIAL).is_dir():
        raise NotADirectoryError(
            f"{(folder / PARTIAL).absolute()} must be the folder of an unfinished certification or not exist, got a "
            "file: move it, or remove it"
        )
    if overwrite or (resume and begun):
        check_places(*(folder / name for name in FILES))
        return
    taken = existing_files(folder)
    if taken:
        raise FileExistsError(
            f"{folder.absolute()} already holds {', '.join(taken)}; choose another folder (output_dir), or "
            "overwrite=true"
        )
    if begun:
        raise FileExistsError(
            f"{folder.absolute()} holds an unfinished certification; resume=true continues it, and overwrite=true "
            "begins again"
        )


class PartialCertification:
    """Folder of an unfinished certification.

    It holds the settings on which every certificate rests, and files of batches, one for each process that wrote some.
    A batch is a line with the SHA-256 of these settings and of itself: a line that was cut by a kill, was damaged, or
    comes from another certification does not count, and its batch is certified again. The settings are read once, so
    that the lines of another certification do not count either if it replaces this one in the folder meanwhile.

    Args:
        folder: a folder that `begin` has made, or will make.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun: bytes | None = None

    @classmethod
    def begin(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> Self:
        """Make the folder, or continue an existing one.

        Args:
            folder: for this certification alone; without ``resume``, its content is removed.
            settings: everything that a certificate depends on, as JSON values.
            resume: keep the batches that are already certified.
            overwrite: when resuming, discard batches that were certified with other settings.

        Raises:
            ValueError: when resuming without ``overwrite``, if the folder's settings differ.
        """
        partial = cls(folder)
        if resume and (folder / SETTINGS).exists():
            try:
                partial.check(settings)
            except ValueError:
                if not overwrite:
                    raise
            else:
                return partial
        partial.discard()
        partial._begun = json.dumps(settings, indent=2).encode() + b"\n"
        with atomic_write(folder / SETTINGS) as file:
            file.write(partial._begun)
        return partial

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise a ValueError that names the difference, unless the certification began with these settings."""
        here = json.loads(json.dumps(settings))
        try:
            there = dict(json.loads(self._settings_bytes()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.folder / SETTINGS} is damaged; begin again with overwrite=true") from error
        differing = sorted(
            name for name in {*there, *here} if not (name in there and name in here and there[name] == here[name])
        )
        if differing:
            values = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differing)
            raise ValueError(f"{self.folder} cannot be resumed, because its settings differ: {values}")

    def batches(self) -> Batches:
        """Return the certified batches, read from the disk.

        Raises:
            ValueError: for a line that carries a right checksum and is no batch of certificates.
        """
        certified: Batches = {}
        begun = self._settings_bytes()
        for path in sorted(self.folder.glob("*.batches")):
            for line in path.read_bytes().split(b"\n"):
                digest, _, content = line.partition(b" ")
                if _digest(begun, content) != digest:
                    continue
                try:
                    batch = json.loads(content)
                    rows = tuple(Row(*row) for row in batch["rows"])
                    certified[int(batch["number"])] = Batch(rows, str(batch["data_sha256"]))
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{path} is not as lipnet writes it; begin again with overwrite=true") from error
        return certified

    def all_rows(self, indices: Sequence[int]) -> list[Row]:
        """Return the certificates of all samples in order.

        Args:
            indices: each sample's index in the official file.

        Raises:
            ValueError: unless there is exactly one certificate for each sample.
        """
        batches = self.batches()
        rows = [row for number in sorted(batches) for row in batches[number].rows]
        if [row.idx for row in rows] != list(indices):
            raise ValueError(
                f"{self.folder} must hold certificates of {len(indices)} samples, got {len(rows)} certificates, or "
                "those of other samples; overwrite=true begins again, unless another certification has begun there"
            )
        return rows

    @contextmanager
    def writer(self) -> Iterator[Callable[[int, Batch], None]]:
        """Open a new file of batches; yield a function that adds a batch and flushes it to the disk."""
        # A new file each time: another process may be writing to an old one, or its last line may be cut.
        count = len(list(self.folder.glob("*.batches")))
        begun = self._settings_bytes()
        path = self.folder / f"{count:04}-{os.getpid()}.batches"
        # Without a buffer: closing the file would try once more to write what a full disk has refused.
        with path.open("xb", buffering=0) as file:

            def add(number: int, batch: Batch) -> None:
                content = json.dumps({"number": number, **batch._asdict()}).encode()
                line = _digest(begun, content) + b" " + content + b"\n"
                with naming(path):
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())

            yield add

    def discard(self) -> None:
        """Remove the folder, if it is there; of a symbolic link, remove the link alone."""
        if self.folder.is_symlink():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def _settings_bytes(self) -> bytes:
        # Their absence is not kept: the certification may begin later.
        path = self.folder / SETTINGS
        if self._begun is None and path.is_file():
            self._begun = path.read_bytes()
        return self._begun or b""


def _digest(begun: bytes, content: bytes) -> bytes:
    """Return the checksum of a line, which ties it to the settings of its certification."""
    return hashlib.sha256(hashlib.sha256(begun).digest() + content).hexdigest().encode()
