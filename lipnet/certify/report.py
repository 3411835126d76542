"""Certification of a whole dataset, and the files it leaves: certificates.tsv, summary.json, curve.png."""

import io
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torchvision
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from lipnet import __version__
from lipnet.certify.certificates import Certificates, certify, reference_tensor
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.files import whole_file
from lipnet.functional.margins import STANDARD_RADII, round_down
from lipnet.metrics import CertifiedAccuracy
from lipnet.metrics.curve import plot_certified_curve
from lipnet.metrics.functional import average_certified_radius, certified_accuracy

FILES = ("certificates.tsv", "summary.json", "curve.png")
RADIUS_DECIMALS = 9
_COLUMNS = ("idx", "label", "prediction", "radius", "correct")


def certify_dataset(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    indices: Tensor,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    radii: Sequence[str] = STANDARD_RADII,
    replace: bool = False,
) -> dict[str, Any]:
    """Certify every image and write the three files into a folder; each appears when it is whole, the summary last.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; its device and dtype are those of the arithmetic.
        batches: images (B, C, H, W) with their labels (B,), in the order of ``indices``.
        indices: each sample's index in the official file, (n,); batches beyond the first n samples are not read.
        folder: where the files go.
        facts: what else the summary says of the run, such as ``dataset`` and ``checkpoint_sha256``.
        radii: the radii of the table, by their text.
        replace: whether files that the folder already holds are replaced.

    Returns:
        The content of summary.json.

    Raises:
        FileExistsError: if the folder already holds one of the files, unless ``replace``; nothing is changed.
        ValueError: as `certify`, and if there are fewer samples than indices.
    """
    if not replace:
        _check_free(folder)
    radii = CertifiedAccuracy(radii).radii
    start = time.perf_counter()
    bounds = logit_bounds(model)
    if not isfinite(bounds.lipschitz):
        raise ValueError("the model's weights are not finite: there is nothing to certify")
    with whole_file(folder / FILES[0]) as file:
        radius, correct = _write_certificates(file, model, batches, indices, bounds)
        (folder / FILES[1]).unlink(missing_ok=True)  # never a summary of other certificates
    summary = {
        **facts,
        **_figures(radius, correct, radii),
        "lipschitz_bound": bounds.lipschitz,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(reference_tensor(model).dtype).removeprefix("torch."),
        "versions": _versions(),
        "wall_seconds": round(time.perf_counter() - start, 3),
    }
    with whole_file(folder / FILES[2]) as file:
        figure, _ = plot_certified_curve(radius, correct, title=_title(summary))
        figure.savefig(file, format="png", dpi=150)
    with whole_file(folder / FILES[1]) as file:
        file.write(json.dumps(summary, indent=2).encode() + b"\n")
    return summary


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


def _check_free(folder: Path) -> None:
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise FileExistsError(
            f"{folder.absolute()} already holds {', '.join(taken)}; choose another output_dir, or overwrite=true"
        )


def _write_certificates(
    file: BinaryIO, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], indices: Tensor, bounds: LogitBounds
) -> tuple[Tensor, Tensor]:
    """Write a line for each sample as it is certified; the radii **as written**, (n,), and which are correct."""
    lines = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=True)
    lines.write("\t".join(_COLUMNS) + "\n")
    radii: list[float] = []
    correct: list[Tensor] = []
    for images, labels in track(_first(batches, len(indices)), "Certifying", total=_batches(batches, len(indices))):
        certificates = certify(model, images, labels, batch_size=len(images), lipschitz=bounds)
        done = len(radii)
        radii += _write_batch(lines, indices[done : done + len(labels)], labels, certificates)
        correct.append(certificates.correct)
    lines.detach()
    if len(radii) != len(indices):
        raise ValueError(f"{len(indices)} samples were to be certified, but the data hold only {len(radii)}")
    return torch.tensor(radii, dtype=torch.float64), torch.cat(correct)


def _write_batch(lines: io.TextIOWrapper, indices: Tensor, labels: Tensor, certificates: Certificates) -> list[float]:
    columns = (indices, labels, certificates.prediction, certificates.radius, certificates.correct)
    written = []
    for idx, label, prediction, radius, correct in zip(*(column.tolist() for column in columns), strict=True):
        text = round_down(radius, RADIUS_DECIMALS)
        lines.write(f"{idx}\t{label}\t{prediction}\t{text}\t{int(correct)}\n")
        written.append(float(text))
    return written


def _first(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> Iterable[tuple[Tensor, Tensor]]:
    """The batches up to the first ``count`` samples, the last one cut."""
    for images, labels in batches:
        yield images[:count], labels[:count]
        count -= len(labels)
        if count <= 0:
            return


def _batches(batches: Iterable[tuple[Tensor, Tensor]], count: int) -> int | None:
    size = getattr(batches, "batch_size", None)
    return None if not size else -(-count // size)


def _figures(radius: Tensor, correct: Tensor, radii: Sequence[str]) -> dict[str, Any]:
    shares = certified_accuracy(radius, correct, radii).tolist()
    return {
        "n_samples": len(radius),
        "clean_accuracy": float(correct.double().mean()),
        "certified_accuracy": dict(zip(radii, shares, strict=True)),
        # Of no samples there is no average, and JSON has no NaN.
        "average_certified_radius": float(average_certified_radius(radius, correct)) if bool(correct.any()) else None,
    }


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary.get('dataset', '')} {summary.get('split', '')}, {summary['n_samples']:,} images".strip()


def _versions() -> dict[str, str]:
    return {
        "lipnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
