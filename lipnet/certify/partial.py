"""A certification that is not finished: each batch is on the disk as soon as it is certified."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from lipnet.certify.certificate_file import Row
from lipnet.files import atomic_write

SETTINGS = "settings.json"


@dataclass(frozen=True)
class CertifiedBatch:
    """What was certified of one batch.

    Attributes:
        number: of the batch in the data, from 0.
        rows: a certificate for each image, in order.
    """

    number: int
    rows: tuple[Row, ...]


class PartialCertification:
    """The folder of a certification that is not finished.

    It holds the settings on which every certificate rests, and files of batches, one for each process that wrote some.
    A batch is a line with its own SHA-256: a line that was cut when the process was killed, or that was damaged, does
    not count, and its batch is certified again.

    Args:
        folder: one that `begin` has made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> Self:
        """Make the folder, or go on with the one that is there.

        Args:
            folder: of this certification alone; without ``resume``, what it holds is removed.
            settings: all that a certificate depends on, as JSON has it.
            resume: go on with the batches that are certified, if there are any.

        Raises:
            ValueError: in resuming, if the folder's settings are others.
        """
        partial = cls(folder)
        if resume and (folder / SETTINGS).exists():
            partial.check(settings)
            return partial
        partial.discard()
        with atomic_write(folder / SETTINGS) as file:
            file.write(json.dumps(settings, indent=2).encode() + b"\n")
        return partial

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise a ValueError that names the difference, unless the certification began with these settings."""
        there, here = json.loads((self.folder / SETTINGS).read_text()), json.loads(json.dumps(settings))
        differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        if differing:
            values = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differing)
            raise ValueError(
                f"{self.folder} was begun with other settings, so that what is missing cannot be added: {values}"
            )

    def batches(self) -> dict[int, CertifiedBatch]:
        """The batches that are certified, by their numbers."""
        lines = [line for path in sorted(self.folder.glob("*.batches")) for line in path.read_bytes().split(b"\n")]
        return {batch.number: batch for batch in map(_parsed, lines) if batch is not None}

    def writer(self) -> "BatchWriter":
        """What adds batches, to a file of its own; a context manager."""
        return BatchWriter(self.folder)

    def discard(self) -> None:
        """Remove the folder, if it is there."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


class BatchWriter:
    """Adds batches to a file of a certification, each durable before the next one begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        # Never a file that another process writes, nor one whose last line may be cut.
        number = len(list(self._folder.glob("*.batches")))
        self._file = (self._folder / f"{number:04}-{os.getpid()}.batches").open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, batch: CertifiedBatch) -> None:
        assert self._file is not None
        content = json.dumps({"number": batch.number, "rows": batch.rows}).encode()
        self._file.write(hashlib.sha256(content).hexdigest().encode() + b" " + content + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _parsed(line: bytes) -> CertifiedBatch | None:
    digest, _, content = line.partition(b" ")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    read = json.loads(content)
    return CertifiedBatch(read["number"], tuple(Row(*row) for row in read["rows"]))
