"""Certify a dataset with one model, batch by batch, and write certificates.tsv, summary.json and curve.png."""

import json
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet import __version__
from lipnet.certify.arithmetic import reference_tensor
from lipnet.certify.bounds import LogitBounds, logit_bounds
from lipnet.certify.certificates import Certificates, certify, measured_deviation
from lipnet.certify.files import certificate_bytes, places_in, rows_of, sealed, summary_bytes
from lipnet.certify.partial import (
    PARTIAL,
    Batch,
    Batches,
    PartialCertification,
    check_free,
    count_rows,
    existing_files,
)
from lipnet.certify.report import figures_of, layer_report, progress, radii_of
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.files import atomic_writes
from lipnet.functional.digest import batch_sha256, code_sha256, tensors_sha256
from lipnet.functional.margins import STANDARD_RADII
from lipnet.layers.identity import model_sha256, state_of, values_sha256
from lipnet.metrics.curve import plot_certified_curve
from lipnet.metrics.functional import check_radii


class Evidence:
    """Bounds of one model for images of one shape, computed once, and certificates based on them.

    For a float64 model, radii account for rounding. For another dtype, they do not, and `summary` says so.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; a change of it from now on is an error.
        image_shape: (C, H, W) of one image.

    Attributes:
        model_sha256: of the model that the bounds are about, see `lipnet.layers.identity`.

    Raises:
        ValueError: for weights that are not finite, for logits that do not depend on the image, and as for `certify`.
        TypeError: as for `certify`.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...]) -> None:
        self.model, self.image_shape = model, image_shape
        self._state, self._values = state_of(model), values_sha256(model)
        self.model_sha256 = model_sha256(model)
        self.bounds: LogitBounds = logit_bounds(model)
        if not isfinite(self.bounds.lipschitz):
            raise ValueError("the model's weights are not finite: there is nothing to certify")
        if self.bounds.lipschitz == 0:
            raise ValueError("the model's Lipschitz bound is 0: its logits do not depend on the image")
        covered = reference_tensor(model).dtype == torch.float64
        self.rounding: RoundingBounds | None = rounding_bounds(model, image_shape) if covered else None

    def certify(self, images: Tensor, labels: Tensor) -> Certificates:
        """Return the certificates of a batch.

        Raises:
            RuntimeError: if the model is another one than when its bounds were computed.
            ValueError, TypeError: as for `lipnet.certify.certify`.
        """
        self._check(state_of(self.model) == self._state)
        return certify(
            self.model,
            images,
            labels,
            batch_size=len(images),
            lipschitz=self.bounds,
            rounding=self.rounding,
            ignore_rounding=self.rounding is None,
        )

    def check_unchanged(self) -> None:
        """Compare all weights, which finds writes through ``.data``, too; RuntimeError if the model was changed."""
        self._check(values_sha256(self.model) == self._values)

    def _check(self, unchanged: bool) -> None:
        if not unchanged:
            raise RuntimeError(
                "the model was changed after its bounds were computed, which are not about it any more; begin again "
                "with the model as it is"
            )

    def facts(self) -> dict[str, Any]:
        """Return the two numbers behind every radius: K, and E or None."""
        bound = None if self.rounding is None else self.rounding.logits
        return {"lipschitz_bound": self.bounds.lipschitz, "rounding_bound": bound}

    def summary(self, images: Tensor) -> dict[str, Any]:
        """Return the summary's entries ``layers`` and ``rounding``, as JSON values.

        Args:
            images: (B, C, H, W), on which the deviation of the deployed model is measured.
        """
        layers = [asdict(layer) for layer in layer_report(self.model, self.image_shape, self.rounding)]
        rounding: dict[str, Any] = {"covered": self.rounding is not None}
        if self.rounding is not None:
            rounding |= {"logits": self.rounding.logits, "radius": self.rounding.radius_cost(self.bounds)}
            rounding["measured"] = asdict(measured_deviation(self.model, images))
        text = json.dumps({"rounding": rounding, "layers": layers})
        # JSON has no infinities: write null in their place.
        entries: dict[str, Any] = json.loads(text, parse_constant=lambda constant: None)
        return entries


@dataclass
class Certification:
    """Dataset to certify, and the model to certify it with.

    Attributes:
        model: from pixels in [0, 1] to logits, in evaluation mode; it runs on its own device and in its own dtype.
        batches: images (B, C, H, W) with their labels (B,), in the order of ``indices``. An iterator is enough to
            certify once; an attack or a report iterates over the batches again.
        indices: each sample's index in the official file, (n,); batches beyond the first n samples are not read.
        facts: everything that the certificates depend on besides the model, such as ``dataset`` and
            ``checkpoint_sha256``, as JSON values.
        remarks: further entries of the summary, such as a path.
        class_names: names of the classes for a report; None for their numbers.
        started: start time by ``time.perf_counter``.
        first_images: images of the first batch, as far as they are among the n samples.
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
            raise ValueError(f"the data must hold {len(self.indices)} samples, got none")
        if stream is self.batches:
            # An iterator yields its first batch only once: put it back.
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

    def identity(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the settings, and what else tells an unfinished certification from another one.

        Args:
            settings: the result of `settings`, if it is already computed: it hashes all weights.
        """
        settings = self.settings() if settings is None else settings
        return {**settings, "model_sha256": self.evidence.model_sha256, "code_sha256": code_sha256()}

    def certify(
        self, numbers: Collection[int] | None = None, certified: Batches | None = None
    ) -> Iterator[tuple[int, Batch]]:
        """Certify batches one by one.

        Args:
            numbers: numbers of the batches to certify, from 0; None for all.
            certified: batches of an interrupted certification, which are not certified again.

        Yields:
            The number of each batch and its certificates.

        Raises:
            ValueError: if there are fewer samples than indices, if the images or labels of a certified batch differ, or
                if the batches are others than before: shuffled, or augmented.
            RuntimeError: if the model was changed after its bounds were computed.
            ValueError, TypeError, RuntimeError: as `lipnet.certify.certify`.
        """
        certified = certified or {}
        done = 0
        for number, (images, labels) in enumerate(self.batches):
            indices = self.indices[done : done + len(labels)]
            done += len(indices)
            images, labels = images[: len(indices)], labels[: len(indices)]
            if number == 0:
                self._check_first(images)
            if number in certified:
                if certified[number].data_sha256 != batch_sha256(images, labels, indices):
                    raise ValueError(
                        f"batch {number} has other images or labels than when it was certified; resume with the same "
                        "data, or begin again with overwrite=true"
                    )
            elif numbers is None or number in numbers:
                rows = rows_of(indices, labels, self.evidence.certify(images, labels))
                yield number, Batch(rows, batch_sha256(images, labels, indices))
            if done == len(self.indices):
                return
        raise ValueError(f"the data must hold {len(self.indices)} samples, got {done}")

    def _check_first(self, images: Tensor) -> None:
        """Refuse batches that change between iterations: indices would not name the images of the certificates."""
        # Compare bytes, because NaN differs from itself; `certify` refuses it with an error of its own.
        if tensors_sha256({"": images}) != tensors_sha256({"": self.first_images}):
            raise ValueError(
                "the first batch must have the same images in every iteration, got others: set shuffle=False, and "
                "leave out random augmentation"
            )

    def missing(self, certified: Collection[int]) -> list[int]:
        """Return the numbers of the batches that are not certified yet; ``batches`` must be a ``DataLoader``."""
        size: int = self.batches.batch_size  # type: ignore[attr-defined]
        return sorted(set(range(ceil(len(self.indices) / size))) - set(certified))


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
    """Certify every image, and write certificates.tsv, curve.png and summary.json into a folder.

    The three files appear at the end, all of them together, as `lipnet.files.atomic_writes` describes. Until then, each
    batch is saved in the subfolder certificates.partial before the next one begins. An interrupted certification leaves
    that subfolder; ``resume`` continues it.

    Args:
        model, batches, indices, facts, remarks: as in `Certification`.
        folder: destination of the files.
        radii: the radii of the table, as text.
        replace: replace files that the folder already holds, and remove the report and the violation about them.
        resume: continue an interrupted certification, if there is one in the folder. With ``replace``, one with another
            model, other data or other settings is discarded.

    Returns:
        The content of summary.json.

    Raises:
        FileExistsError: if the folder already holds one of the files, unless ``replace``, or an unfinished
            certification, unless ``resume`` or ``replace``; nothing is changed.
        OSError: if a folder is in the place of a file to replace; nothing is changed.
        ValueError: as for `certify`, if there are fewer samples than indices, and if model, data or settings differ
            from those of the certification to resume, unless ``replace``.
        RuntimeError: if the model was changed meanwhile.
    """
    # `run_certification` checks both again. Here, a mistake shows before the bounds are computed.
    check_free(folder, replace=replace, resume=resume)
    radii, _ = check_radii(radii)
    certification = Certification(model, batches, indices, facts, remarks or {})
    return run_certification(certification, folder, radii=radii, replace=replace, resume=resume)


def certify_here(certification: Certification, partial: PartialCertification) -> None:
    """Certify the missing batches one after another, in this process."""
    certified = partial.batches()
    done = count_rows(certified)
    with progress(len(certification.indices), done) as show, partial.writer() as add:
        for number, batch in certification.certify(certified=certified):
            add(number, batch)
            done += len(batch.rows)
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

    Raises:
        FileExistsError: also if one of the files appears in the folder meanwhile, unless ``replace``.
    """
    check_free(folder, replace=replace, resume=resume)
    expected = existing_files(folder)
    radii, _ = check_radii(radii)
    certification.evidence.check_unchanged()
    settings = certification.settings()
    identity = certification.identity(settings)
    partial = PartialCertification.begin(folder / PARTIAL, identity, resume=resume, replace=replace)
    execute(certification, partial)
    try:
        certification.evidence.check_unchanged()
    except RuntimeError:
        partial.discard()  # nobody knows which of the batches were certified before the change
        raise
    rows = partial.all_rows(certification.indices.tolist())
    evidence = certification.evidence.summary(certification.first_images)
    seconds = round(time.perf_counter() - certification.started, 3)
    figures = {**figures_of(rows, radii), **evidence, "wall_seconds": seconds}
    summary = sealed({**certification.remarks, **settings, **figures})
    title = f"{summary.get('dataset', '')} {summary.get('split', '')}, {summary['n_samples']:,} images".strip()
    appeared = [name for name in existing_files(folder) if name not in expected]
    if appeared and not replace:
        raise FileExistsError(
            f"another certification wrote {', '.join(appeared)} into {folder.absolute()} meanwhile; resume=true "
            "replaces them"
        )
    places, outdated = places_in(folder)
    with atomic_writes(*places, outdated=outdated) as (table, curve, description):
        table.write(certificate_bytes(settings, rows))
        figure, _ = plot_certified_curve(*radii_of(rows), title=title)
        figure.savefig(curve, format="png", dpi=150)
        description.write(summary_bytes(summary))
    partial.discard()
    return summary
