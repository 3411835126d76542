"""Certification of a whole dataset, and the files it leaves: certificates.tsv, summary.json, curve.png."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipnet.certify.certificate_file import Row, certificate_bytes
from lipnet.certify.certification import Certification
from lipnet.certify.partial import CertifiedBatch, PartialCertification
from lipnet.certify.progress import CertificationProgress
from lipnet.certify.summary import figures_of, radii_of, sealed, summary_bytes
from lipnet.files import atomic_writes
from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics import CertifiedAccuracy
from lipnet.metrics.curve import plot_certified_curve

FILES = ("certificates.tsv", "curve.png", "summary.json")
PARTIAL = "certificates.partial"


def certify_dataset(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    indices: Tensor,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    remarks: Mapping[str, Any] | None = None,
    radii: Sequence[str] = STANDARD_RADII,
    replace: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Certify every image and write the three files into a folder; each appears when it is whole, the summary last.

    Batches that are certified are on the disk before the next one begins, in the folder's certificates.partial. A
    certification that was interrupted leaves that folder, and nothing else; ``resume`` goes on from it.

    Args:
        model, batches, indices, facts, remarks: as in `Certification`.
        folder: where the files go.
        radii: the radii of the table, by their text.
        replace: whether files that the folder already holds are replaced.
        resume: go on with a certification that was interrupted, if there is one in the folder.

    Returns:
        The content of summary.json.

    Raises:
        FileExistsError: if the folder already holds one of the files, unless ``replace``, or the remains of a
            certification, unless ``resume`` or ``replace``; nothing is changed.
        ValueError: as `certify`; if there are fewer samples than indices; and in resuming, for other settings.
    """
    check_free(folder, replace=replace, resume=resume)
    radii = CertifiedAccuracy(radii).radii
    certification = Certification(model, batches, indices, facts, remarks or {})
    return run_certification(certification, folder, radii=radii, replace=replace, resume=resume)


def certify_here(certification: Certification, partial: PartialCertification) -> None:
    """Certify the batches that are missing one after another, in this process."""
    certified = partial.batches()
    done = count_rows(certified)
    with CertificationProgress(len(certification.indices), done) as progress, partial.writer() as writer:
        for batch in certification.certify(without=certified):
            writer.add(batch)
            done += len(batch.rows)
            progress.update(done)


def run_certification(
    certification: Certification,
    folder: Path,
    *,
    radii: Sequence[str] = STANDARD_RADII,
    replace: bool = False,
    resume: bool = False,
    execute: Callable[[Certification, PartialCertification], None] = certify_here,
) -> dict[str, Any]:
    """What `certify_dataset` does, for what is to be certified; ``execute`` certifies the batches that are missing."""
    check_free(folder, replace=replace, resume=resume)
    radii = CertifiedAccuracy(radii).radii
    partial = PartialCertification.begin(folder / PARTIAL, certification.settings(), resume=resume)
    execute(certification, partial)
    rows = _all_rows(certification, partial)
    summary = _write_files(certification, folder, rows, radii)
    partial.discard()
    return summary


def check_free(folder: Path, *, replace: bool, resume: bool) -> None:
    """Raise a FileExistsError if there is something in the way of a certification in this folder."""
    begun = (folder / PARTIAL).exists()
    if replace or (resume and begun):
        return
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise FileExistsError(
            f"{folder.absolute()} already holds {', '.join(taken)}; choose another output_dir, or overwrite=true"
        )
    if begun:
        raise FileExistsError(
            f"{folder.absolute()} holds a certification that is not finished; resume=true goes on with it, and "
            "overwrite=true begins again"
        )


def _all_rows(certification: Certification, partial: PartialCertification) -> list[Row]:
    """The certificates of all samples, in order and each once: anything else is an error."""
    batches = partial.batches()
    rows = [row for number in sorted(batches) for row in batches[number].rows]
    expected = certification.indices.tolist()
    if [row.idx for row in rows] != expected:
        raise ValueError(
            f"{len(expected)} samples were to be certified, but {partial.folder} holds {len(rows)} certificates, or "
            "those of other samples: overwrite=true begins again"
        )
    return rows


def _write_files(
    certification: Certification, folder: Path, rows: Sequence[Row], radii: Sequence[str]
) -> dict[str, Any]:
    settings, figures = certification.settings(), figures_of(rows, radii)
    evidence = certification.evidence.summary(certification.first_images)
    seconds = round(time.perf_counter() - certification.started, 3)
    summary = sealed({**certification.remarks, **settings, **figures, **evidence, "wall_seconds": seconds})
    with atomic_writes(*(folder / name for name in FILES)) as (table, curve, description):
        table.write(certificate_bytes(settings, rows))
        figure, _ = plot_certified_curve(*radii_of(rows), title=_title(summary))
        figure.savefig(curve, format="png", dpi=150)
        description.write(summary_bytes(summary))
    return summary


def count_rows(batches: Mapping[int, CertifiedBatch]) -> int:
    return sum(len(batch.rows) for batch in batches.values())


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary.get('dataset', '')} {summary.get('split', '')}, {summary['n_samples']:,} images".strip()
