"""A file of certificates, checked again from the checkpoint and the data alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lipnet.certify.certificate_file import CertificateFile, CertificateFileError, Row, examine_certificates
from lipnet.certify.certification import Certification
from lipnet.certify.progress import CertificationProgress
from lipnet.certify.summary import figures_of, read_summary
from lipnet.data import ImageDataModule
from lipnet.models.checkpoint import read_checkpoint
from lipnet.workflows.certification import prepare_certification

DIFFERENT = 2
"""Exit status of a verification that found differences."""
SHOWN = 10
_NEEDED = ("dataset", "split", "data_sha256", "checkpoint_sha256", "batch_size", "dtype", "n_samples")
_SUMMARY, _BEST = "summary.json", "checkpoints/best.ckpt"


@dataclass(frozen=True)
class Verification:
    """What the check of a file of certificates found.

    Attributes:
        certified: how many samples were certified again.
        problems: what is wrong with the file, or the summary beside it, as a whole.
        differences: a line for each certificate that is missing, too much or not the one that was found now.
        notes: what may explain differences, and is none itself: other versions, another device.
    """

    certified: int
    problems: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        return not self.problems and not self.differences


def verify_certificates(
    path: str | Path,
    ckpt_path: str | Path | None = None,
    *,
    data: ImageDataModule | None = None,
    data_dir: str | None = None,
    device: str = "auto",
) -> Verification:
    """Certify anew what a file of certificates certifies, compare sample by sample, and print what differs.

    Nothing of the file is believed but which checkpoint and which data it speaks of, by their SHA-256, and the settings
    (split, number of samples, batch size, dtype). A radius differs if its text does. Radii of another machine may
    differ in the last decimal and be true all the same; the report says which of the two claims more, and by how much.

    Args:
        path: a file of certificates.
        ckpt_path: the checkpoint; None for the one that summary.json beside the file names, or that of the run.
        data, data_dir, device: as for `lipnet.workflows.certify_checkpoint`.

    Raises:
        FileNotFoundError: for a missing file, checkpoint or missing data.
        ValueError: if the file is none of certificates, or speaks of another checkpoint or other data.
    """
    path = Path(path)
    content = examine_certificates(path)
    missing = [name for name in _NEEDED if name not in content.facts]
    if missing or not content.rows:
        raise CertificateFileError(f"{path} cannot be checked: it does not say {', '.join(missing) or 'anything'}")
    ckpt_path = Path(ckpt_path) if ckpt_path is not None else _checkpoint_of(path)
    _check_same(content, "checkpoint_sha256", read_checkpoint(ckpt_path)[1], f"checkpoint {ckpt_path}", path)
    certification = prepare_certification(
        ckpt_path,
        device,
        data=data,
        data_dir=data_dir,
        split=content.facts["split"],
        n_samples=content.facts["n_samples"],
        batch_size=content.facts["batch_size"],
        dtype=content.facts["dtype"],
    )
    for name in ("dataset", "data_sha256"):
        _check_same(content, name, certification.facts[name], "data", path)
    rows = _certified(certification)
    problems, notes = _compare_facts(content.facts, certification.settings())
    verification = Verification(
        certified=len(rows),
        problems=(*content.problems, *problems, *_summary_problems(path.with_name(_SUMMARY), content)),
        differences=tuple(_differences(content.rows, rows)),
        notes=tuple(notes),
    )
    _report(path, verification)
    return verification


def _checkpoint_of(path: Path) -> Path:
    """The checkpoint that a file of certificates was made from, as far as it can be found."""
    summary = path.with_name(_SUMMARY)
    named = [Path(read_summary(summary)["checkpoint"])] if summary.is_file() else []
    for candidate in (*named, path.parent / _BEST):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"the checkpoint of {path} is not where it was: say where by ckpt_path=...")


def _check_same(content: CertificateFile, name: str, here: Any, what: str, path: Path) -> None:
    if content.facts[name] != here:
        raise ValueError(f"{path} is of other {what}: its {name} is {content.facts[name]}, here it is {here}")


def _certified(certification: Certification) -> list[Row]:
    rows: list[Row] = []
    with CertificationProgress(len(certification.indices)) as progress:
        for batch in certification.certify():
            rows += batch.rows
            progress.update(len(rows))
    return rows


def _compare_facts(stated: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the file states otherwise than it is found now: as problems, and what is none as notes."""
    sentences: tuple[list[str], list[str]] = ([], [])
    for name, value in found.items():
        if stated.get(name) != value:
            sentences[name in ("versions", "device")].append(f"{name}: the file states {stated.get(name)}, now {value}")
    return sentences


def _summary_problems(path: Path, content: CertificateFile) -> list[str]:
    """What the summary beside a file of certificates says that the file does not; nothing if there is no summary."""
    if not path.is_file():
        return []
    try:
        summary = read_summary(path)
    except CertificateFileError as error:
        return [str(error)]
    figures = figures_of(list(content.rows.values()), list(summary["certified_accuracy"]))
    expected = {**content.facts, **figures}
    return [
        f"{path.name} states {name} {summary.get(name)}, the file {value}"
        for name, value in expected.items()
        if summary.get(name) != value
    ]


def _differences(stated: Mapping[int, Row], found: Sequence[Row]) -> Iterator[str]:
    """A sentence for each line that is not the one that was found, and for each that is missing."""
    expected = {row.idx: row for row in found}
    for line, row in stated.items():
        other = expected.pop(row.idx, None)
        if other is None:
            yield f"line {line}, idx {row.idx}: stated twice, or no sample of these data"
        elif row != other:
            yield f"line {line}, idx {row.idx}: {', '.join(_differing(row, other))}"
    for idx in expected:
        yield f"idx {idx}: there is no certificate"
    if not expected and [row.idx for row in stated.values()] != [row.idx for row in found]:
        yield "the certificates are not in the order of the data"


def _differing(stated: Row, found: Row) -> Iterator[str]:
    for name in ("label", "prediction", "correct"):
        if getattr(stated, name) != getattr(found, name):
            yield f"{name} {getattr(stated, name)}, found {getattr(found, name)}"
    if stated.radius != found.radius:
        excess = Decimal(stated.radius) - Decimal(found.radius)
        claim = "more" if excess > 0 else "less"
        yield f"radius {stated.radius} claims {claim} than {found.radius} by {abs(excess)}"


def _report(path: Path, verification: Verification) -> None:
    lines = [*verification.problems, *_first(verification.differences), *verification.notes]
    for line in lines:
        print(f"  {line}")
    if verification.confirmed:
        print(f"{path}: all {verification.certified:,} certificates are confirmed")
        return
    print(
        f"{path} is not confirmed: {len(verification.differences):,} differences in {verification.certified:,} "
        f"certificates, {len(verification.problems)} problems of the file as a whole"
    )


def _first(sentences: Sequence[str]) -> Iterable[str]:
    yield from sentences[:SHOWN]
    if len(sentences) > SHOWN:
        yield f"and {len(sentences) - SHOWN:,} more"
