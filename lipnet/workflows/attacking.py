"""Attack the certificates of a file, and add the results to the summary beside it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from lipnet.certify import AttackResult, Certificates, CertificateViolationError, attack
from lipnet.certify.attacks.check import POWER_FACTORS, Attacker
from lipnet.certify.files import (
    SUMMARY,
    VIOLATION,
    Row,
    read_certified,
    sealed,
    summary_bytes,
    unsealed,
)
from lipnet.certify.progress import progress
from lipnet.files import atomic_write
from lipnet.functional.digest import tensors_sha256
from lipnet.functional.margins import parse_radius
from lipnet.workflows.errors import unwritten_as_note

OnBatch = Callable[[Tensor, AttackResult], None]


@dataclass(frozen=True)
class CertificateAttack:
    """Settings of an attack on certificates: ``attack=pgd`` or ``attack=autoattack`` on the command line.

    Attributes:
        method: the attack, such as `lipnet.certify.PGD`.
        n_samples: number of certificates, from the first one, or all if there are fewer; None for all.
        factors: multiples of the certified radius at which the attack's power is measured, above 1.
        radii: fixed radii, as text; None for the radii of the certification.

    Raises:
        ValueError: for settings out of range.
    """

    method: Attacker
    n_samples: int | None = None
    factors: Sequence[float] = POWER_FACTORS
    radii: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.n_samples is not None and self.n_samples < 1:
            raise ValueError(f"attack.n_samples must be at least 1, or null for all, got {self.n_samples}")
        if not all(1 < factor < inf for factor in self.factors):
            raise ValueError(f"attack.factors must be finite and more than 1, got {list(self.factors)}")
        if len(set(self.factors)) < len(self.factors):
            raise ValueError(f"attack.factors must differ from each other, got {list(self.factors)}")
        for radius in self.radii or ():
            parse_radius(radius)


def attack_certificates(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    folder: Path,
    plan: CertificateAttack,
    *,
    radii: Sequence[str],
    on_batch: OnBatch | None = None,
    expected: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Attack the certificates of a folder's certificates.tsv, and add the results to its summary.json.

    The attack reads the lines back from the file and takes each as written, in order.

    Args:
        model: the certified model, in evaluation mode.
        batches: the images and labels, in the order of the file.
        folder: holds certificates.tsv and summary.json.
        plan: settings of the attack.
        radii: fixed radii, if the plan has none.
        on_batch: called with the images and the result of each batch.
        expected: content of summary.json as the certification returned it; None for any.

    Returns:
        The content of summary.json, with the results under the key ``attack``.

    Raises:
        CertificateViolationError: for an image with another prediction within its certified radius; violation.npz
            then holds it, and the summary says so. Files that could not be written are notes of the error.
        UnsoundCertificatesError: unless certified <= under attack <= clean.
        CertificateFileError: if a file was changed after it was written, or another certification has replaced the
            attacked one; its files stay as they are.
        ValueError: as `lipnet.certify.attack`, for data whose labels differ from the file's, and for a model with other
            weights than the certified one.
    """
    start = time.perf_counter()
    content, summary = read_certified(folder, expected)
    _check_model(model, summary)
    rows = list(content.rows.values())[: plan.n_samples]
    (folder / VIOLATION).unlink(missing_ok=True)
    radii = [str(radius) for radius in plan.radii or radii]
    method = plan.method
    settings: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    facts = {"method": type(method).__name__, "settings": settings}
    try:
        result = _attack_rows(model, batches, rows, plan, radii, on_batch)
    except CertificateViolationError as violation:
        with unwritten_as_note(violation):
            read_certified(folder, summary)
            violation.save(folder / VIOLATION)
        saved = None if violation.path is None else VIOLATION
        with unwritten_as_note(violation):
            _add_to_summary(folder, summary, {**facts, "violation": str(violation), "file": saved})
        raise
    found = {
        **facts,
        "n_samples": len(result.distance),
        "accuracy": {radius: result.accuracies(radius) for radius in radii},
        "n_certified": int((result.certificates.radius > 0).sum()),
        "flipped": {str(factor): result.power(factor) for factor in (1, *plan.factors)},
        "unconfirmed": result.unconfirmed,
        "wall_seconds": round(time.perf_counter() - start, 3),
    }
    return _add_to_summary(folder, summary, found)


def attack_tables(found: dict[str, Any]) -> tuple[Table, Table]:
    """Return two tables in per cent: accuracies at each radius, and flips at multiples of the certified radius."""
    heading = f"Under attack by {found['method']}, {found['n_samples']:,} images, in %"
    sandwich = Table("L2 radius", title=heading, box=SIMPLE_HEAD)
    names = ("certified", "under attack", "clean")
    for name in names:
        sandwich.add_column(name, justify="right")
    for radius, shares in found["accuracy"].items():
        sandwich.add_row(radius, *(f"{100 * shares[name.replace(' ', '_')]:.2f}" for name in names))
    power = Table(
        "multiple of the certified radius",
        title=f"Of {found['n_certified']:,} certified images, in %",
        caption="an attack that finds nothing proves nothing",
        box=SIMPLE_HEAD,
    )
    power.add_column("flipped", justify="right")
    for factor, share in found["flipped"].items():
        power.add_row(factor, "-" if share is None else f"{100 * share:.2f}")
    return sandwich, power


def _check_model(model: nn.Module, summary: Mapping[str, Any]) -> None:
    """Raise ValueError if the summary states other weights: it would report the attack of another model."""
    here, stated = tensors_sha256(model.state_dict()), summary.get("weights_sha256")
    if stated != here:
        raise ValueError(f"the weights must be the certified ones, whose weights_sha256 is {stated}, got {here}")


def _attack_rows(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    rows: list[Row],
    plan: CertificateAttack,
    radii: list[str],
    on_batch: OnBatch | None,
) -> AttackResult:
    """Attack the certificates of the rows batch by batch, and return the results of all of them."""
    certificates = Certificates(
        torch.tensor([row.prediction for row in rows]),
        torch.tensor([float(row.radius) for row in rows], dtype=torch.float64),
        torch.tensor([row.correct == 1 for row in rows]),
    )
    settings: dict[str, Any] = {"attacker": plan.method, "radii": radii, "factors": plan.factors}
    results: list[AttackResult] = []
    done = 0
    with progress(len(rows), verb="attacked") as show:
        for images, labels in _pieces(batches, getattr(plan.method, "images_at_once", None)):
            part = rows[done : done + len(images)]
            if not part:
                break
            place = slice(done, done + len(part))
            images, labels = images[: len(part)], labels[: len(part)]
            if [row.label for row in part] != labels.tolist():
                raise ValueError(
                    "the labels in certificates.tsv are not those of the data: other samples, or another order"
                )
            own = Certificates(certificates.prediction[place], certificates.radius[place], certificates.correct[place])
            indices = [row.idx for row in part]
            result = attack(model, images, labels, own, batch_size=len(part), indices=indices, **settings)
            # The perturbed images of all batches together may not fit into memory.
            results.append(replace(result, nearest=None, nearest_prediction=None))
            if on_batch is not None:
                on_batch(images, result)
            done += len(part)
            show(done)
    if done != len(rows):
        raise ValueError(f"the data must hold the images of {len(rows)} certificates, got {done} images")
    distance = torch.cat([result.distance for result in results])
    return AttackResult(certificates, distance, sum(result.unconfirmed for result in results))


def _pieces(batches: Iterable[tuple[Tensor, Tensor]], most: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Split batches into pieces of at most ``most`` images; None leaves them whole."""
    for images, labels in batches:
        size = most or max(1, len(images))
        for start in range(0, len(images), size):
            yield images[start : start + size], labels[start : start + size]


def _add_to_summary(folder: Path, attacked: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Add the results of the attack to summary.json, and return its content; ``attacked`` is the content before."""
    _, summary = read_certified(folder, attacked)
    summary = sealed({**unsealed(summary), "attack": found})
    with atomic_write(folder / SUMMARY) as file:
        file.write(summary_bytes(summary))
    return summary
