"""Reports of the certify command: one page for a certification, or one that compares several."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lipnet.certify import UnsoundCertificatesError
from lipnet.certify.html import COMPARISON, REPORT, AttackedImages, write_comparison, write_report
from lipnet.certify.run import Certification
from lipnet.files import check_places, resolve_path
from lipnet.printing import say
from lipnet.workflows.attacking import OnBatch
from lipnet.workflows.errors import unwritten_as_note

HTML = "html"


def check_report(report: str | None, folder: Path, *, replace: bool) -> None:
    """Check the option ``report`` before the certification begins.

    Raises:
        ValueError: for another value than ``"html"`` or None.
        FileExistsError: if the folder holds a report already, unless ``replace``.
        IsADirectoryError: if a folder is in the place of the report, even if none is written: an old one is removed.
    """
    if report not in (None, HTML):
        raise ValueError(f"report must be {HTML!r} or null, got {report!r}")
    check_places(folder / REPORT)
    if report is not None and (folder / REPORT).exists() and not replace:
        raise FileExistsError(f"{folder / REPORT} exists; choose another output_dir, or overwrite=true")


@contextmanager
def reported(
    report: str | None, certification: Certification, folder: Path, summary: Mapping[str, Any]
) -> Iterator[OnBatch | None]:
    """Write report.html at the end of the block, even if an attack in the block shows that a certificate is wrong.

    Args:
        report: ``"html"``, or None for no report.
        certification: a finished certification.
        folder: the folder of its files.
        summary: the content of its summary.json.

    Yields:
        The function that keeps the images of an attack for the report; None without a report.

    Raises:
        ValueError, OSError: as `lipnet.certify.html.write_report`; after a wrong certificate, as its note.
    """
    if report is None:
        yield None
        return
    attacked = AttackedImages()

    def write() -> None:
        images = (batch for batch, _ in certification.batches)
        names = certification.class_names
        write_report(folder, images, class_names=names, attacked=attacked, command=_command(), expected=summary)

    try:
        yield attacked.add
    except UnsoundCertificatesError as verdict:
        with unwritten_as_note(verdict):
            write()
        raise
    write()


def compare_runs(runs: Sequence[str | Path], output_dir: str | Path, *, overwrite: bool = False) -> Path:
    """Write compare.html, which overlays the curves of several certified runs, and return its path.

    Args:
        runs: folders that hold certificates.tsv and summary.json.
        output_dir: folder of compare.html.
        overwrite: replace an existing compare.html.

    Raises:
        FileExistsError: if there is a compare.html already, unless ``overwrite``.
        FileNotFoundError, CertificateFileError, ValueError: as `lipnet.certify.html.write_comparison`.
    """
    path = resolve_path(output_dir) / COMPARISON
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another output_dir, or overwrite=true")
    write_comparison(runs, path, command=_command())
    say(f"The comparison of {len(runs)} runs is in {path}")
    return path


def _command() -> str:
    """Return the command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
