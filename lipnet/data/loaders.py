"""Loaders of batches: made by worker processes, or at once on the device that holds all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader

from lipnet.data.images import ImageDataset
from lipnet.data.mixing import Batch, Mixing
from lipnet.data.samplers import EpochSampler


class WorkerLoader(DataLoader[tuple[Tensor, Tensor]]):
    """A DataLoader, with worker processes or without, that can mix its batches and go on within an epoch.

    An epoch begins when its first batch is asked for, not when the iterator is made: so workers that load ahead take
    the epoch that was set in between, as Lightning sets it when it resumes a run. Interrupted in the middle of an
    epoch, a loader goes on from its ``state_dict`` with the batch after the last one delivered.

    Args:
        dataset: the images.
        num_classes: number of classes.
        mixing: mixes the images of each batch; None leaves them as they are.
        seed: of the mixing.
        settings: as for ``torch.utils.data.DataLoader``.
    """

    uses_workers: ClassVar[bool] = True

    def __init__(
        self, dataset: ImageDataset, *, num_classes: int, mixing: Mixing | None = None, seed: int = 0, **settings: Any
    ) -> None:
        super().__init__(dataset, **settings)  # type: ignore[arg-type]
        self.num_classes, self.mixing, self.seed = num_classes, mixing, seed
        self._progress = {"epoch": 0, "batches": 0}
        self._resumed: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield the batches of an epoch, or what is left of it after ``load_state_dict``.

        Raises:
            ValueError: what is left was to be delivered in batches of another size.
        """
        epoch, start = self._of_sampler("epoch"), self._start()
        for number, batch in enumerate(self._batches(), start):
            # Counted before it is delivered: whoever asks for the state has received it.
            self._progress = {"epoch": epoch, "batches": number + 1}
            yield self._mixed(batch, number)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch of the last batch, the number of its batches that were delivered, and their size."""
        return {**self._progress, "batch_size": self.batch_size or 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on, if the next iteration is of the same epoch, with the batch after those that were delivered."""
        self._resumed = dict(state)

    def _start(self) -> int:
        """The number of the first batch to deliver; the sampler leaves out the samples of those before it."""
        state, self._resumed = self._resumed, None
        if state is None or not isinstance(self.sampler, EpochSampler) or state["epoch"] != self.sampler.epoch:
            return 0
        if state["batch_size"] != self.batch_size:
            raise ValueError(
                f"the epoch was begun in batches of {state['batch_size']} and cannot go on in batches of "
                f"{self.batch_size}: resume with the same batch size"
            )
        self.sampler.skip(state["batches"] * state["batch_size"])
        return state["batches"]

    def _batches(self) -> Iterator[Batch]:
        return super().__iter__()

    def _mixed(self, batch: Batch, number: int) -> Batch:
        if self.mixing is None:
            return batch
        key = (self.seed, self._of_sampler("epoch"), self._of_sampler("rank"), number)
        return self.mixing.mix(batch, self.num_classes, key)

    def _of_sampler(self, name: str) -> int:
        """The sampler's epoch or rank; 0 of samplers that have none."""
        return int(getattr(self.sampler, name, 0))


class MemoryLoader(WorkerLoader):
    """Makes its batches at once on the device that holds the dataset's images: no workers, no copies of images."""

    uses_workers: ClassVar[bool] = False

    def _batches(self) -> Iterator[Batch]:
        assert isinstance(self.dataset, ImageDataset)
        for items in self.batch_sampler:
            yield self.dataset.batch(items)


LOADERS: dict[str, type[WorkerLoader]] = {"memory": MemoryLoader, "workers": WorkerLoader}
"""The loaders, by the name that ``data.loader`` chooses them with."""
