"""Certify a dataset with one model, batch by batch, and write certificates.tsv, summary.json and curve.png."""

import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet import __version__
from lipnet.certify.arithmetic import reference_tensor
from lipnet.certify.evidence import Evidence
from lipnet.certify.files import certificate_bytes, check_fact_names, places_in, rows_of, sealed, summary_bytes
from lipnet.certify.inputs import check_indices
from lipnet.certify.partial import (
    PARTIAL,
    Batch,
    Batches,
    PartialCertification,
    check_free,
    count_rows,
    existing_files,
)
from lipnet.certify.progress import progress
from lipnet.certify.report import figures_of, radii_of
from lipnet.files import atomic_writes, resolve_path
from lipnet.functional.digest import batch_sha256, code_sha256, tensors_sha256
from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics.curve import plot_certified_curve
from lipnet.metrics.functional import check_radii


@dataclass
class Certification:
    """Dataset to certify, and the model to certify it with.

    Attributes:
        model, indices, facts, remarks: as in `certify_dataset`.
        batches: as in `certify_dataset`; an attack or a report iterates over the batches again.
        class_names: names of the classes for a report; None for their numbers.
        started: start time by ``time.perf_counter``.
        first_images: images of the first batch that are among the n samples.
        evidence: the bounds of the model for images like these.

    Raises:
        ValueError, TypeError: if there are no images, for indices that are negative or repeated, for names of facts
            that a file cannot state, and as for `Evidence`.
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
        check_indices(self.indices)
        check_fact_names(self.facts)
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
            ValueError: if there are fewer samples than indices, if the images or labels of a certified batch differ, if
                a batch has another number of labels than of images, or if the batches are others than before: shuffled,
                or augmented.
            RuntimeError: if the model was changed after its bounds were computed.
            ValueError, TypeError, RuntimeError: as `lipnet.certify.certify`.
        """
        certified = certified or {}
        done = 0
        for number, (images, labels) in enumerate(self.batches):
            indices = self.indices[done : done + len(labels)]
            done += len(indices)
            if len(images) != len(labels):
                raise ValueError(f"batch {number} must have a label for each image, got {len(labels)} of {len(images)}")
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
        """Return the numbers of the batches that are not certified yet; ``batches`` must have a ``batch_size``."""
        size: int = self.batches.batch_size  # type: ignore[attr-defined]
        return sorted(set(range(ceil(len(self.indices) / size))) - set(certified))


def certify_dataset(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    indices: Tensor,
    folder: str | Path,
    *,
    facts: Mapping[str, Any],
    remarks: Mapping[str, Any] | None = None,
    radii: Sequence[str] = STANDARD_RADII,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Certify every image, and write certificates.tsv, curve.png and summary.json into a folder.

    The three files appear at the end, all of them together, as `lipnet.files.atomic_writes` describes. Until then, each
    batch is saved in the subfolder certificates.partial before the next one begins. An interrupted certification leaves
    that subfolder; ``resume`` continues it.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; it runs on its own device and in its own dtype.
        batches: images (B, C, H, W) with their labels (B,), in the order of ``indices``; an iterator is enough.
        indices: each sample's index in the official file, int64 (n,); batches beyond the first n samples are not read.
        folder: destination of the files.
        facts: everything that the certificates depend on besides the model, such as ``dataset`` and
            ``checkpoint_sha256``, as JSON values.
        remarks: further entries of the summary, such as a path.
        radii: the radii of the table, as text.
        overwrite: replace files that the folder already holds, and remove the report and the violation about them.
        resume: continue an interrupted certification, if there is one in the folder. With ``overwrite``, one with
            another model, other data or other settings is discarded.

    Returns:
        The content of summary.json.

    Raises:
        FileExistsError: if the folder already holds one of the files, unless ``overwrite``, or an unfinished
            certification, unless ``resume`` or ``overwrite``; nothing is changed.
        OSError: if a folder is in the place of a file to replace; nothing is changed.
        ValueError: as for `certify`, if there are fewer samples than indices, and if model, data or settings differ
            from those of the certification to resume, unless ``overwrite``.
        RuntimeError: if the model was changed meanwhile.
    """
    folder = resolve_path(folder)
    # `run_certification` checks both again. Here, a mistake shows before the bounds are computed.
    check_free(folder, overwrite=overwrite, resume=resume)
    radii, _ = check_radii(radii)
    certification = Certification(model, batches, indices, facts, remarks or {})
    return run_certification(certification, folder, radii=radii, overwrite=overwrite, resume=resume)


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
    overwrite: bool = False,
    resume: bool = False,
    execute: Callable[[Certification, PartialCertification], None] = certify_here,
) -> dict[str, Any]:
    """Run a prepared certification as `certify_dataset` does.

    Args:
        certification: the model, the data and the bounds.
        folder, radii, overwrite, resume: as in `certify_dataset`.
        execute: certifies the missing batches; by default, one after another in this process.

    Raises:
        FileExistsError: also if one of the files appears in the folder meanwhile, unless ``overwrite``.
    """
    check_free(folder, overwrite=overwrite, resume=resume)
    expected = existing_files(folder)
    radii, _ = check_radii(radii)
    certification.evidence.check_unchanged()
    settings = certification.settings()
    identity = certification.identity(settings)
    partial = PartialCertification.begin(folder / PARTIAL, identity, resume=resume, overwrite=overwrite)
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
    appeared = [name for name in existing_files(folder) if name not in expected]
    if appeared and not overwrite:
        raise FileExistsError(
            f"another certification wrote {', '.join(appeared)} into {folder.absolute()} meanwhile; resume=true "
            "replaces them"
        )
    places, outdated = places_in(folder)
    with atomic_writes(*places, outdated=outdated) as (table, curve, description):
        table.write(certificate_bytes(settings, rows))
        figure, _ = plot_certified_curve(*radii_of(rows), radii, title=_title(summary))
        figure.savefig(curve, format="png", dpi=150)
        description.write(summary_bytes(summary))
    partial.discard()
    return summary


def _title(summary: Mapping[str, Any]) -> str:
    """Return the title of the curve: dataset and split, if they are stated, and the number of images."""
    source = " ".join(str(summary[name]) for name in ("dataset", "split") if name in summary)
    return ", ".join(filter(None, (source, f"{summary['n_samples']:,} images")))
