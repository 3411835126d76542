"""The summary of a certification: its figures, its file, and the table of several."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from lipnet.certify.certificate_file import CertificateFileError, Row
from lipnet.functional.margins import round_down
from lipnet.metrics.functional import average_certified_radius, certified_accuracy

_CHECKSUM = "sha256"


def figures_of(rows: Sequence[Row], radii: Sequence[str]) -> dict[str, Any]:
    """Clean and certified accuracy and the average certified radius, of the radii **as written**."""
    radius, correct = radii_of(rows)
    shares = certified_accuracy(radius, correct, radii).tolist()
    return {
        "n_samples": len(rows),
        "clean_accuracy": float(correct.double().mean()),
        "certified_accuracy": dict(zip(radii, shares, strict=True)),
        # Of no samples there is no average, and JSON has no NaN.
        "average_certified_radius": float(average_certified_radius(radius, correct)) if bool(correct.any()) else None,
    }


def radii_of(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The radii as written, float64 (n,), and whether the predictions are correct, bool (n,)."""
    radius = torch.tensor([float(row.radius) for row in rows], dtype=torch.float64)
    return radius, torch.tensor([bool(row.correct) for row in rows])


def sealed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with the SHA-256 of its own content."""
    return {**summary, _CHECKSUM: hashlib.sha256(summary_bytes(summary)).hexdigest()}


def summary_bytes(summary: Mapping[str, Any]) -> bytes:
    """The content of summary.json."""
    return json.dumps(summary, indent=2).encode() + b"\n"


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary.json that is as it was written.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if it is not as it was written.
    """
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise CertificateFileError(f"{path} cannot be read as JSON: it was cut, damaged or edited ({error})") from error
    summary = {key: value for key, value in content.items() if key != _CHECKSUM} if isinstance(content, dict) else {}
    if data != summary_bytes(sealed(summary)):
        raise CertificateFileError(f"{path} is not as it was written: its SHA-256 does not fit its content")
    assert isinstance(content, dict)
    return content


def summary_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Clean and certified accuracy per radius, in per cent, a row for each named summary."""
    table = Table(
        title="Accuracy in %: clean, and certified at L2 radii (pixels in [0, 1])",
        caption="ACR: average certified radius of the correct samples",
        box=SIMPLE_HEAD,
    )
    table.add_column("", overflow="fold")
    radii = list(next(iter(rows.values()))["certified_accuracy"])
    for name in ("params", "clean", *radii, "ACR"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, summary in rows.items():
        shares = [summary["clean_accuracy"], *(summary["certified_accuracy"][radius] for radius in radii)]
        radius = summary["average_certified_radius"]
        average = "-" if radius is None else round_down(radius, 3)
        table.add_row(name, f"{summary['parameters']:,}", *(f"{100 * share:.2f}" for share in shares), average)
    return table
