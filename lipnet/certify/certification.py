"""What is to be certified by what, batch by batch."""

import hashlib
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lipnet import __version__
from lipnet.certify.certificate_file import RADIUS_DECIMALS, Row
from lipnet.certify.certificates import Certificates, reference_tensor
from lipnet.certify.evidence import Evidence
from lipnet.certify.partial import CertifiedBatch
from lipnet.functional.margins import round_down

Batch = tuple[int, tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Certification:
    """What is to be certified by what; all but the weights and the images goes into the files.

    Attributes:
        model: from pixels in [0, 1] to logits, in evaluation mode; its device and dtype are those of the arithmetic.
        batches: images (B, C, H, W) with their labels (B,), in the order of ``indices``; may be iterated over anew.
        indices: each sample's index in the official file, (n,); batches beyond the first n samples are not read.
        facts: what the certificates depend on and the model does not say, such as ``dataset`` and
            ``checkpoint_sha256``: values as JSON has them.
        remarks: what else the summary says of the run, such as a path.
        first_images: those of the first batch.
        evidence: the bounds of the model for images like these.
        started: the time by ``time.perf_counter``.

    Raises:
        ValueError, TypeError: for weights that are not finite, no images at all, and as `Evidence`.
    """

    model: nn.Module
    batches: Iterable[tuple[Tensor, Tensor]]
    indices: Tensor
    facts: Mapping[str, Any]
    remarks: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    first_images: Tensor = field(init=False)
    evidence: Evidence = field(init=False)

    def __post_init__(self) -> None:
        stream = iter(self.batches)
        first = next(stream, None)
        if first is None:
            raise ValueError(f"{len(self.indices)} samples were to be certified, but the data hold only 0")
        if stream is self.batches:  # an iterator, which gives no batch twice
            object.__setattr__(self, "batches", chain([first], stream))
        object.__setattr__(self, "first_images", first[0])
        object.__setattr__(self, "evidence", Evidence(self.model, tuple(first[0].shape[1:])))

    def settings(self) -> dict[str, Any]:
        """All that the certificates rest on: what the file of certificates states, and what makes two alike."""
        reference = reference_tensor(self.model)
        return {
            **self.facts,
            "n_samples": len(self.indices),
            "weights_sha256": _weights_sha256(self.model),
            **self.evidence.facts(),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(reference.dtype).removeprefix("torch."),
            "device": reference.device.type,
            "versions": _versions(),
        }

    def count_batches(self) -> int:
        """Number of batches that hold the samples; only for batches that know their size."""
        size: int = self.batches.batch_size  # type: ignore[attr-defined]
        return -(-len(self.indices) // size)

    def numbered_batches(self) -> Iterator[Batch]:
        """The batches with their numbers, each with the indices, images and labels of the samples that count."""
        done = 0
        for number, (images, labels) in enumerate(self.batches):
            indices = self.indices[done : done + len(labels)]
            yield number, (indices, images[: len(indices)], labels[: len(indices)])
            done += len(indices)
            if done == len(self.indices):
                return
        raise ValueError(f"{len(self.indices)} samples were to be certified, but the data hold only {done}")

    def certify(
        self, numbers: Collection[int] | None = None, without: Collection[int] = ()
    ) -> Iterator[CertifiedBatch]:
        """Certify the batches of these numbers, all if None, but not those ``without``; errors as `certify`."""
        for number, (indices, images, labels) in self.numbered_batches():
            if number in without or (numbers is not None and number not in numbers):
                continue
            yield CertifiedBatch(number, rows_of(indices, labels, self.evidence.certify(images, labels)))


def rows_of(indices: Tensor, labels: Tensor, certificates: Certificates) -> tuple[Row, ...]:
    """The lines of a batch of certificates, with radii rounded down to the decimals of the file."""
    columns = (indices, labels, certificates.prediction, certificates.radius, certificates.correct)
    return tuple(
        Row(idx, label, prediction, round_down(radius, RADIUS_DECIMALS), int(correct))
        for idx, label, prediction, radius, correct in zip(*(column.tolist() for column in columns), strict=True)
    )


def _weights_sha256(model: nn.Module) -> str:
    """Of what the model's state holds: names and values, in the dtype of the arithmetic."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {
        "lipnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
