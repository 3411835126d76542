"""Certify a dataset with one model, batch by batch, and write certificates.tsv, summary.json and curve.png."""

import json
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet import __version__
from lipnet.certify.arithmetic import reference_tensor
from lipnet.certify.bounds import LogitBounds, logit_bounds
from lipnet.certify.certificates import Certificates, certify, measured_deviation
from lipnet.certify.files import (
    FILES,
    RADIUS_DECIMALS,
    Row,
    certificate_bytes,
    sealed,
    summary_bytes,
)
from lipnet.certify.partial import Batches, PartialCertification
from lipnet.certify.report import figures_of, layer_report, progress, radii_of
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.files import atomic_writes
from lipnet.functional.digest import tensors_sha256
from lipnet.functional.margins import STANDARD_RADII, round_down
from lipnet.metrics.curve import plot_certified_curve
from lipnet.metrics.functional import check_radii

PARTIAL = "certificates.partial"


class Evidence:
    """The bounds of one model for images of one shape, computed once, and the certificates based on them.

    For a float64 model, radii account for rounding. For another dtype, they do not, and `summary` says so.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; its weights must not change any more.
        image_shape: (C, H, W) of one image.

    Raises:
        ValueError: for weights that are not finite, for logits that do not depend on the image, and as for `certify`.
        TypeError: as for `certify`.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...]) -> None:
        self.model, self.image_shape = model, image_shape
        self.bounds: LogitBounds = logit_bounds(model)
        if not isfinite(self.bounds.lipschitz):
            raise ValueError("the model's weights are not finite: there is nothing to certify")
        if self.bounds.lipschitz == 0:
            raise ValueError("the model's Lipschitz bound is 0: its logits do not depend on the image")
        covered = reference_tensor(model).dtype == torch.float64
        self.rounding: RoundingBounds | None = rounding_bounds(model, image_shape) if covered else None

    def certify(self, images: Tensor, labels: Tensor) -> Certificates:
        """Return the certificates of a batch; errors as for `lipnet.certify.certify`."""
        return certify(
            self.model,
            images,
            labels,
            batch_size=len(images),
            lipschitz=self.bounds,
            rounding=self.rounding,
            ignore_rounding=self.rounding is None,
        )

    def facts(self) -> dict[str, Any]:
        """Return the two numbers behind every radius: K, and E or None."""
        bound = None if self.rounding is None else self.rounding.logits
        return {"lipschitz_bound": self.bounds.lipschitz, "rounding_bound": bound}

    def summary(self, images: Tensor) -> dict[str, Any]:
        """Return the entries ``rounding``, with the deviation on these images, and ``layers``, as JSON values."""
        layers = [asdict(layer) for layer in layer_report(self.model, self.image_shape, self.rounding)]
        rounding: dict[str, Any] = {"covered": self.rounding is not None}
        if self.rounding is not None:
            rounding |= {"logits": self.rounding.logits, "radius": self._radius_cost(self.rounding)}
            rounding["measured"] = asdict(measured_deviation(self.model, images))
        # JSON has no infinities: write null in their place.
        text = json.dumps({"rounding": rounding, "layers": layers})
        plain: dict[str, Any] = json.loads(text, parse_constant=lambda constant: None)
        return plain

    def _radius_cost(self, rounding: RoundingBounds) -> float:
        """Return the largest reduction of a certified radius due to rounding."""
        if self.bounds.pairwise is None or rounding.pairwise is None:
            return 2 * rounding.logits / self.bounds.lipschitz
        apart = ~torch.eye(len(rounding.pairwise), dtype=torch.bool)
        return float((2 * rounding.pairwise / self.bounds.pairwise.cpu())[apart].max())


@dataclass
class Certification:
    """A dataset to certify, and the model to certify it with.

    Attributes:
        model: from pixels in [0, 1] to logits, in evaluation mode; it is run on its own device and in its own dtype.
        batches: images (B, C, H, W) with their labels (B,), in the order of ``indices``. An iterator is enough to
            certify once; an attack or a report iterates over the batches again.
        indices: each sample's index in the official file, (n,); batches beyond the first n samples are not read.
        facts: everything that the certificates depend on besides the model, such as ``dataset`` and
            ``checkpoint_sha256``, as JSON values.
        remarks: further entries of the summary, such as a path.
        class_names: names of the classes for a report; None for their numbers.
        started: start time by ``time.perf_counter``.
        first_images: images of the first batch that are among the n samples.
        evidence: the bounds of the model for images like these.

    Raises:
        ValueError, TypeError: if there are no images, and as for `Evidence`.
    """

    model: nn.Module
    batches: Iterable[tuple[Tensor, Tensor]]
    indices: Tensor
    facts: Mapping[str, Any]
    remarks: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] | None = None
    started: float = field(default_factory=time.perf_counter)
    first_images: Tensor = field(init=False)
    evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        stream = iter(self.batches)
        first = next(stream, None)
        if first is None:
            raise ValueError(f"{len(self.indices)} samples were to be certified, but the data hold only 0")
        if stream is self.batches:  # an iterator yields its first batch only once: put it back
            self.batches = chain([first], stream)
        self.first_images = first[0][: len(self.indices)]
        self.evidence = Evidence(self.model, tuple(first[0].shape[1:]))

    def settings(self) -> dict[str, Any]:
        """Return everything that the certificates depend on, for certificates.tsv and summary.json."""
        # This import takes seconds, and most uses of `lipnet.certify` do not need it.
        import torchvision

        reference = reference_tensor(self.model)
        return {
            **self.facts,
            "n_samples": len(self.indices),
            "weights_sha256": tensors_sha256(self.model.state_dict()),
            **self.evidence.facts(),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(reference.dtype).removeprefix("torch."),
            "device": reference.device.type,
            "versions": {
                "lipnet": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
        }

    def certify(
        self, numbers: Collection[int] | None = None, without: Collection[int] = ()
    ) -> Iterator[tuple[int, tuple[Row, ...]]]:
        """Certify batches one by one; errors as for `lipnet.certify.certify`.

        Args:
            numbers: numbers of the batches to certify, from 0; None for all.
            without: numbers of batches to skip.

        Yields:
            The number of each batch and its certificates.
        """
        done = 0
        for number, (images, labels) in enumerate(self.batches):
            indices = self.indices[done : done + len(labels)]
            done += len(indices)
            if number not in without and (numbers is None or number in numbers):
                images, labels = images[: len(indices)], labels[: len(indices)]
                yield number, rows_of(indices, labels, self.evidence.certify(images, labels))
            if done == len(self.indices):
                return
        raise ValueError(f"{len(self.indices)} samples were to be certified, but the data hold only {done}")


def rows_of(indices: Tensor, labels: Tensor, certificates: Certificates) -> tuple[Row, ...]:
    """Return a batch of certificates as rows of certificates.tsv, with radii rounded down to its decimals."""
    columns = (indices, labels, certificates.prediction, certificates.radius, certificates.correct)
    return tuple(
        Row(idx, label, prediction, round_down(radius, RADIUS_DECIMALS), int(correct))
        for idx, label, prediction, radius, correct in zip(*(column.tolist() for column in columns), strict=True)
    )


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
    """Certify every image and write the three files into a folder. Each appears when it is whole, the summary last.

    Each batch is saved in the subfolder certificates.partial before the next one begins. An interrupted certification
    leaves that subfolder and nothing else; ``resume`` continues it.

    Args:
        model, batches, indices, facts, remarks: as in `Certification`.
        folder: destination of the files.
        radii: the radii of the table, as text.
        replace: replace files that the folder already holds.
        resume: continue an interrupted certification, if there is one in the folder.

    Returns:
        The content of summary.json.

    Raises:
        FileExistsError: if the folder already holds one of the files, unless ``replace``, or an unfinished
            certification, unless ``resume`` or ``replace``; nothing is changed.
        ValueError: as for `certify`, if there are fewer samples than indices, and if the settings differ from those of
            the certification to resume.
    """
    # `run_certification` checks both again; here, a mistake shows before the bounds are computed.
    check_free(folder, replace=replace, resume=resume)
    radii, _ = check_radii(radii)
    certification = Certification(model, batches, indices, facts, remarks or {})
    return run_certification(certification, folder, radii=radii, replace=replace, resume=resume)


def certify_here(certification: Certification, partial: PartialCertification) -> None:
    """Certify the missing batches one after another, in this process."""
    certified = partial.batches()
    done = count_rows(certified)
    with progress(len(certification.indices), done) as show, partial.writer() as add:
        for number, rows in certification.certify(without=certified):
            add(number, rows)
            done += len(rows)
            show(done)


def run_certification(
    certification: Certification,
    folder: Path,
    *,
    radii: Sequence[str] = STANDARD_RADII,
    replace: bool = False,
    resume: bool = False,
    execute: Callable[[Certification, PartialCertification], None] = certify_here,
) -> dict[str, Any]:
    """Run a prepared certification as `certify_dataset` does.

    Args:
        certification: the model, the data and the bounds.
        folder, radii, replace, resume: as in `certify_dataset`.
        execute: certifies the missing batches; by default, one after another in this process.
    """
    check_free(folder, replace=replace, resume=resume)
    radii, _ = check_radii(radii)
    settings = certification.settings()
    partial = PartialCertification.begin(folder / PARTIAL, settings, resume=resume)
    execute(certification, partial)
    rows = _all_rows(certification, partial)
    evidence = certification.evidence.summary(certification.first_images)
    seconds = round(time.perf_counter() - certification.started, 3)
    figures = {**figures_of(rows, radii), **evidence, "wall_seconds": seconds}
    summary = sealed({**certification.remarks, **settings, **figures})
    title = f"{summary.get('dataset', '')} {summary.get('split', '')}, {summary['n_samples']:,} images".strip()
    with atomic_writes(*(folder / name for name in FILES)) as (table, curve, description):
        table.write(certificate_bytes(settings, rows))
        figure, _ = plot_certified_curve(*radii_of(rows), title=title)
        figure.savefig(curve, format="png", dpi=150)
        description.write(summary_bytes(summary))
    partial.discard()
    return summary


def check_free(folder: Path, *, replace: bool, resume: bool) -> None:
    """Raise FileExistsError if the folder holds something that a certification would overwrite."""
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
            f"{folder.absolute()} holds a certification that is not finished; resume=true continues it, and "
            "overwrite=true begins again"
        )


def count_rows(batches: Batches) -> int:
    return sum(map(len, batches.values()))


def _all_rows(certification: Certification, partial: PartialCertification) -> list[Row]:
    """Return the certificates of all samples in order; raise ValueError unless there is exactly one for each."""
    batches = partial.batches()
    rows = [row for number in sorted(batches) for row in batches[number]]
    expected = certification.indices.tolist()
    if [row.idx for row in rows] != expected:
        raise ValueError(
            f"{len(expected)} samples were to be certified, but {partial.folder} holds {len(rows)} certificates, or "
            "those of other samples: overwrite=true begins again"
        )
    return rows
