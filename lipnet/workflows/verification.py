"""Verify a file of certificates, and the summary beside it, from the checkpoint and the data alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lipnet.certify.files import (
    SUMMARY,
    CertificateFile,
    CertificateFileError,
    Row,
    examine_certificates,
    read_summary,
)
from lipnet.certify.progress import progress
from lipnet.data import ImageDataModule
from lipnet.files import resolve_path
from lipnet.models.checkpoint import read_checkpoint
from lipnet.printing import say
from lipnet.workflows.certification import checkpoint_path, prepare_certification
from lipnet.workflows.folders import BEST
from lipnet.workflows.summary_check import compare_summary, identical

SHOWN = 10
_TEXTS = ("dataset", "split", "data_sha256", "checkpoint_sha256", "dtype")
_NUMBERS = ("batch_size", "n_samples")
_NEEDED = {**dict.fromkeys(_TEXTS, str), **dict.fromkeys(_NUMBERS, int)}


@dataclass(frozen=True)
class Verification:
    """Result of verifying a file of certificates.

    Attributes:
        certified: number of samples that were certified again.
        problems: faults of the file, or of the summary beside it, as a whole.
        differences: a line for each certificate that is missing, superfluous, or differs from the recomputed one.
        notes: remarks on other versions, another device, and statements that are not recomputed; these are no faults.
    """

    certified: int
    problems: tuple[str, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def confirmed(self) -> bool:
        """True if there are neither problems nor differences."""
        return not self.problems and not self.differences


def verify_certificates(
    path: str | Path,
    ckpt_path: str | Path | None = None,
    *,
    data: ImageDataModule | None = None,
    data_dir: str | None = None,
    device: str = "auto",
) -> Verification:
    """Certify the samples of a certificate file again, compare sample by sample, and print the differences.

    The file only gives the settings (split, number of samples, batch size, dtype) and the SHA-256 that identify
    checkpoint and data. Every other statement in it, and in summary.json beside it, is recomputed and compared;
    unknown, missing and repeated statements are problems. A radius differs if its text does. On another machine radii
    may differ in the last decimal and still be right; the printed line says which of the two claims more, and by how
    much.

    Args:
        path: a file of certificates.
        ckpt_path: the checkpoint; None for the one that summary.json beside the file names, or the run's best one.
        data, data_dir, device: as for `lipnet.workflows.certify_checkpoint`.

    Raises:
        FileNotFoundError: for a missing file, a missing checkpoint or missing data.
        ValueError: if the file holds no certificates, or rests on another checkpoint or other data.
    """
    path = resolve_path(path)
    content = examine_certificates(path)
    _check_needed(path, content)
    ckpt_path = checkpoint_path(ckpt_path) if ckpt_path is not None else _checkpoint_of(path)
    _check_same(content, "checkpoint_sha256", read_checkpoint(ckpt_path)[1], f"checkpoint {ckpt_path}", path)
    settings = {name: content.facts[name] for name in ("split", "dtype", *_NUMBERS)}
    certification = prepare_certification(ckpt_path, device, data=data, data_dir=data_dir, **settings)
    for name in ("dataset", "data_sha256"):
        _check_same(content, name, certification.facts[name], "data", path)
    rows: list[Row] = []
    with progress(len(certification.indices)) as show:
        for _, batch in certification.certify():
            rows += batch.rows
            show(len(rows))
    problems, notes = _compare_facts(content.facts, certification.settings())
    more_problems, more_notes = compare_summary(path.with_name(SUMMARY), content, certification)
    problems = [*content.problems, *problems, *more_problems]
    differences = list(_differences(content.rows, rows))
    verification = Verification(len(rows), tuple(problems), tuple(differences), (*notes, *more_notes))
    if len(differences) > SHOWN:
        differences[SHOWN:] = [f"and {len(differences) - SHOWN:,} more"]
    say(*(f"  {line}" for line in (*problems, *differences, *verification.notes)))
    if verification.confirmed:
        say(f"{path}: all {len(rows):,} certificates are confirmed")
    else:
        say(
            f"{path} is not confirmed: {len(verification.differences):,} differences in {len(rows):,} certificates, "
            f"{len(problems)} problems of the file as a whole"
        )
    return verification


def _check_needed(path: Path, content: CertificateFile) -> None:
    """Raise CertificateFileError unless the file has rows and states the settings that a verification needs."""
    missing = [name for name in _NEEDED if name not in content.facts]
    if missing or not content.rows:
        raise CertificateFileError(f"{path} cannot be checked: it does not say {', '.join(missing) or 'anything'}")
    for name, kind in _NEEDED.items():
        if type(content.facts[name]) is not kind:
            raise CertificateFileError(
                f"{path} cannot be checked: {name} must be of type {kind.__name__}, got {content.facts[name]!r}"
            )


def _checkpoint_of(path: Path) -> Path:
    """Find the checkpoint behind a file of certificates: the one in its summary, or the best one of its run."""
    summary = path.with_name(SUMMARY)
    named = read_summary(summary).get("checkpoint") if summary.is_file() else None
    candidates = [path.parent / named] if isinstance(named, str) else []
    for candidate in (*candidates, path.parent / BEST):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"the checkpoint of {path} is missing: name it by ckpt_path=...")


def _check_same(content: CertificateFile, name: str, here: Any, what: str, path: Path) -> None:
    if content.facts[name] != here:
        raise ValueError(f"{name} of the {what} must be {content.facts[name]}, as {path} states, got {here}")


def _compare_facts(stated: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return a sentence for each stated fact that differs from the recomputed one: problems, and notes."""
    problems: list[str] = []
    notes: list[str] = []
    for name, value in found.items():
        if name not in stated:
            problems.append(f"{name}: the file does not state it, now {value}")
        elif not identical(stated[name], value):
            other_machine = name in ("device", "versions") and _same_form(stated[name], value)
            sentences = notes if other_machine else problems
            sentences.append(f"{name}: the file states {stated[name]}, now {value}")
    for name in stated.keys() - found.keys():
        problems.append(f"{name}: the file states {stated[name]}, which is no fact of a certification")
    return problems, notes


def _same_form(stated: Any, found: Any) -> bool:
    """Return True if both values are texts that are not empty, or such texts by the same names."""
    if isinstance(found, dict):
        return (
            isinstance(stated, dict)
            and stated.keys() == found.keys()
            and all(_same_form(stated[name], found[name]) for name in found)
        )
    return isinstance(stated, str) and stated != ""


def _differences(stated: Mapping[int, Row], found: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each line that differs from the recomputed one, and for each that is missing."""
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
    """Yield a clause for each column in which two rows of an image differ."""
    for name in ("label", "prediction", "correct"):
        if getattr(stated, name) != getattr(found, name):
            yield f"{name} {getattr(stated, name)}, found {getattr(found, name)}"
    if stated.radius != found.radius:
        excess = Decimal(stated.radius) - Decimal(found.radius)
        claim = "more" if excess > 0 else "less"
        yield f"radius {stated.radius} claims {claim} than {found.radius} by {abs(excess)}"
