"""Data loaders that apply MixUp or CutMix, continue an interrupted epoch, and notice that images have changed."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lipnet.data.augmentation import Batch, Mixing, seeded_mix
from lipnet.data.images import ImageDataset
from lipnet.data.samplers import EpochSampler
from lipnet.functional.digest import batch_sha256


class WorkerLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A ``DataLoader`` that can apply MixUp or CutMix to its batches, and continue an interrupted epoch.

    The epoch is read when the first batch is requested, not when the iterator is created: Lightning creates the
    iterator of a resumed run first and sets the epoch afterwards. With an `EpochSampler`, an interrupted epoch
    continues from its ``state_dict`` with the batch after the last one delivered. With another sampler, such as the one
    of ``Trainer(overfit_batches=...)``, it cannot be continued.

    Args:
        dataset: the images.
        num_classes: number of classes, for mixing.
        mixing: torchvision's MixUp or CutMix, applied to each batch, whose labels become probabilities
            (B, num_classes); None leaves batches unchanged.
        seed: seed of the mixing.
        settings: as for ``torch.utils.data.DataLoader``.
    """

    # MemoryLoader does not use the workers of its base class.
    uses_workers: ClassVar[bool] = True

    def __init__(
        self, dataset: ImageDataset, *, num_classes: int, mixing: Mixing | None = None, seed: int = 0, **settings: Any
    ) -> None:
        super().__init__(dataset, **settings)  # type: ignore[arg-type]
        self.num_classes, self.mixing, self.seed = num_classes, mixing, seed
        self._progress = {"epoch": 0, "batches": 0}
        self._resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of an epoch, or its remaining ones after ``load_state_dict``.

        Raises:
            ValueError: the epoch was begun with another batch size or number of processes.
        """
        # Samplers of torch have neither, and no augmentation to seed.
        epoch, rank = (int(getattr(self.sampler, name, 0)) for name in ("epoch", "rank"))
        # Skip before the workers start, since they load ahead.
        start = self._skip_delivered()
        for number, batch in enumerate(self._batches(), start):
            # Update before yielding: the caller may ask for the state as soon as it holds the batch.
            self._progress = {"epoch": epoch, "batches": number + 1}
            if self.mixing is None:
                yield batch
            else:
                yield seeded_mix(self.mixing, batch, self.num_classes, (self.seed, epoch, rank, number))

    @property
    def continues_epochs(self) -> bool:
        """True if `load_state_dict` continues an interrupted epoch."""
        return isinstance(self.sampler, EpochSampler)

    def state_dict(self) -> dict[str, int]:
        """Return the place of the last delivered batch, as `load_state_dict` takes it.

        It is the epoch, the number of batches that each process got in it, the batch size and the number of processes.
        A loaded state counts from the first batch on.
        """
        processes = getattr(self.sampler, "num_replicas", 1)
        return {**self._progress, "batch_size": self.batch_size or 0, "processes": processes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the delivered batches in the next iteration if it is of the epoch in ``state``, else forget them."""
        self._resumed = dict(state)

    def _skip_delivered(self) -> int:
        """Make the sampler skip the batches delivered before an interruption, and return their number."""
        state, self._resumed = self._resumed, None
        if state is None or not isinstance(self.sampler, EpochSampler) or state["epoch"] != self.sampler.epoch:
            return 0
        for name, stated, here in (
            ("batch_size", state["batch_size"], self.batch_size),
            # Checkpoints of earlier versions do not have it.
            ("number of processes", state.get("processes", self.sampler.num_replicas), self.sampler.num_replicas),
        ):
            if stated != here:
                raise ValueError(
                    f"{name} must be {stated}, as when the interrupted epoch began, got {here}: another one "
                    "would repeat or leave out images"
                )
        self.sampler.skip(state["batches"] * state["batch_size"])
        return state["batches"]

    def _batches(self) -> Iterator[Batch]:
        return super().__iter__()


class MemoryLoader(WorkerLoader):
    """A loader that builds each batch by indexing the tensor of all images, on its device.

    There are no worker processes: ``num_workers``, ``collate_fn`` and ``pin_memory`` have no effect.
    """

    uses_workers: ClassVar[bool] = False

    def _batches(self) -> Iterator[Batch]:
        assert isinstance(self.dataset, ImageDataset)
        for items in self.batch_sampler:
            yield self.dataset.batch(items)


class UnchangedBatches:
    """The first batches of a loader, which must be the same in every iteration.

    Files may change while a certification reads them. Its certificates would then be of other images than those whose
    SHA-256 they state.

    Args:
        loader: of an evaluation split, in order.
        indices: each sample's index in the official file, (n,); batches beyond the first n samples are not read.
        digests: the `batch_sha256` of each batch, from `ImageDataset.digests`.

    Raises:
        ValueError: in an iteration, for a batch with another SHA-256.
    """

    def __init__(self, loader: DataLoader[tuple[Tensor, Tensor]], indices: Tensor, digests: Sequence[str]) -> None:
        assert loader.batch_size is not None
        self.loader, self.batch_size, self.digests = loader, loader.batch_size, digests
        self.indices = torch.split(indices, self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # The shortest first: the loader is not asked for a batch beyond the last one.
        for number, (indices, digest, batch) in enumerate(zip(self.indices, self.digests, self.loader, strict=False)):
            images, labels = (values[: len(indices)] for values in batch)
            if batch_sha256(images, labels, indices) != digest:
                raise ValueError(
                    f"batch {number} has other images or labels than at the beginning: they were changed meanwhile; "
                    "begin again with the data as they are"
                )
            yield images, labels


LOADERS: dict[str, type[WorkerLoader]] = {"memory": MemoryLoader, "workers": WorkerLoader}
"""The loader classes by the values of ``loader`` of `ImageDataModule`, in Hydra ``data.loader``."""
