"""An unfinished certification on the disk: each batch is durable as soon as it is certified."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from lipnet.certify.files import Row
from lipnet.files import atomic_write

SETTINGS = "settings.json"


Batches = dict[int, tuple[Row, ...]]
"""Certificates, one for each image in order, by the number of their batch in the data, from 0."""


class PartialCertification:
    """The folder of an unfinished certification.

    It holds the settings on which every certificate rests, and files of batches, one for each process that wrote some.
    A batch is a line with its own SHA-256: a line that was cut by a kill, or damaged, does not count, and its batch is
    certified again.

    Args:
        folder: one that `begin` has made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> Self:
        """Make the folder, or continue the one that is there.

        Args:
            folder: for this certification alone; without ``resume``, its content is removed.
            settings: everything that a certificate depends on, as JSON values.
            resume: continue with the batches that are certified, if there are any.

        Raises:
            ValueError: when resuming, if the folder's settings differ.
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
        here = json.loads(json.dumps(settings))
        try:
            there = dict(json.loads((self.folder / SETTINGS).read_text()))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.folder / SETTINGS} is damaged; begin again with overwrite=true") from error
        differing = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        if differing:
            values = "; ".join(f"{name}: {there.get(name)} there, {here.get(name)} here" for name in differing)
            raise ValueError(f"{self.folder} was begun with other settings, so that it cannot be resumed: {values}")

    def batches(self) -> Batches:
        """Return the certified batches."""
        certified: Batches = {}
        for path in sorted(self.folder.glob("*.batches")):
            for line in path.read_bytes().split(b"\n"):
                digest, _, content = line.partition(b" ")
                if hashlib.sha256(content).hexdigest().encode() == digest:
                    batch = json.loads(content)
                    certified[batch["number"]] = tuple(Row(*row) for row in batch["rows"])
        return certified

    @contextmanager
    def writer(self) -> Iterator[Callable[[int, Sequence[Row]], None]]:
        """Open a new file of batches; yield a function that adds a batch, which is durable when it returns."""
        # Never a file that another process writes, nor one whose last line may be cut.
        place = len(list(self.folder.glob("*.batches")))
        with (self.folder / f"{place:04}-{os.getpid()}.batches").open("xb") as file:

            def add(number: int, rows: Sequence[Row]) -> None:
                content = json.dumps({"number": number, "rows": rows}).encode()
                file.write(hashlib.sha256(content).hexdigest().encode() + b" " + content + b"\n")
                file.flush()
                os.fsync(file.fileno())

            yield add

    def discard(self) -> None:
        """Remove the folder, if it is there."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
