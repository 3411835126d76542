"""Certified runs, read from their files, and the figures that reports show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipnet.certify.files import (
    CERTIFICATES,
    SUMMARY,
    CertificateFileError,
    Row,
    complete_files,
    read_certified,
)
from lipnet.certify.report import figures_of, radii_of, same_figure
from lipnet.certify.summary_form import wrong_entries
from lipnet.files import resolve_path
from lipnet.functional.margins import parse_radius


@dataclass(frozen=True)
class Run:
    """A certification, as its files state it.

    Attributes:
        name: a name that tells several runs apart.
        rows: the certificates, in the order of the file.
        summary: the content of summary.json.
        class_names: names of the classes; None for their numbers.
    """

    name: str
    rows: Sequence[Row]
    summary: dict[str, Any]
    class_names: Sequence[str] | None = None

    @cached_property
    def radius(self) -> Tensor:
        """The radii as written, float64 (n,)."""
        return radii_of(self.rows)[0]

    @cached_property
    def correct(self) -> Tensor:
        """True for each correct prediction, bool (n,)."""
        return radii_of(self.rows)[1]

    @cached_property
    def steps(self) -> Tensor:
        """The radii of the correct images in ascending order: certified accuracy falls at each of them."""
        return self.radius[self.correct].sort().values

    def certified(self, radius: float) -> float:
        """Return the fraction of images that are correct and have a larger certified radius."""
        return int((self.steps > radius).sum()) / len(self.rows)

    @property
    def clean(self) -> float:
        """The fraction of correct images."""
        return len(self.steps) / len(self.rows)

    @property
    def marks(self) -> dict[str, float]:
        """The radii of the summary's table as numbers, by their text."""
        return {text: parse_radius(text) for text in self.summary["certified_accuracy"]}

    def class_name(self, number: int) -> str:
        """Return the name of a class, or its number as text."""
        names = self.class_names or ()
        return str(names[number]) if number < len(names) else str(number)


def certified_folder(path: str | Path) -> Path:
    """Return the absolute path of a certification's folder, given the folder or one of its two files."""
    path = resolve_path(path)
    return path.parent if path.name in (CERTIFICATES, SUMMARY) else path


def read_run(
    folder: str | Path,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    expected: Mapping[str, Any] | None = None,
) -> Run:
    """Read certificates.tsv and summary.json of a folder.

    Args:
        folder: the folder, or either of the two files in it.
        name: the run's name; by default the folder's.
        class_names: names of the classes; by default those that the summary states, if it does.
        expected: content of the summary that the folder must hold, see `lipnet.certify.files.read_certified`.

    Raises:
        FileNotFoundError: if a file is missing.
        CertificateFileError: if a file was changed after it was written, the two do not belong together, or another
            certification has replaced the expected one.
    """
    folder = certified_folder(folder)
    complete_files(folder)
    for file in (CERTIFICATES, SUMMARY):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} holds no {file}: a report needs the folder of a finished certification")
    content, summary = read_certified(folder, expected)
    rows = list(content.rows.values())
    wrong = wrong_entries(summary) or _false_figures(summary, rows)
    if wrong:
        raise CertificateFileError(
            f"{folder / SUMMARY} is not as lipnet writes it: {', '.join(wrong[:5])} missing or wrong"
        )
    names = summary.get("classes") if class_names is None else class_names
    return Run(name or folder.name, rows, summary, names)


def _false_figures(summary: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Return the names of figures in a summary that are not those of the certificates."""
    try:
        figures = figures_of(rows, list(summary["certified_accuracy"]))
    except ValueError:  # there are no radii, or they cannot be read
        return ["certified_accuracy"]
    return [name for name, value in figures.items() if not same_figure(summary[name], value)]


def axis_end(runs: Sequence[Run]) -> float:
    """Return the end of the radius axis of charts: beyond nearly all certified radii, and never 0."""
    ends = [float(torch.quantile(run.steps, 0.995)) for run in runs if len(run.steps)]
    return 1.04 * max(ends, default=0.0) or 1.0
