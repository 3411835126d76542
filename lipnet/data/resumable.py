"""A loader that knows where in an epoch it is, and goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader


class ResumableDataLoader(DataLoader[Any]):
    """A ``DataLoader`` whose position is part of a checkpoint, in the manner that Lightning asks for.

    Its order must be a function of the epoch that its sampler was told (:class:`lipnet.data.EpochSampler`). A state
    says which epoch was being read, and how many of its batches had been handed out. The first iteration after loading
    a state leaves those batches out, without reading their samples, if the sampler is then at the same epoch; in
    another epoch the state means nothing, as after a checkpoint at an epoch's end.

    Nothing is drawn from the sampler before the first batch is asked for. A plain loader with workers draws as soon as
    its iterator is made, which in a resumed training is before the sampler has been told its epoch.
    """

    _handed_out = 0
    _loaded: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start = self._start()
        self._handed_out = start
        for batch in self._rest(start) if start else super().__iter__():
            # Counted before it is handed out: what asks for the state has received it.
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch of the sampler, and the number of its batches that have been handed out."""
        return {"epoch": self._epoch(), "batches": self._handed_out, "batch_size": self.batch_size or 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up the position of a :meth:`state_dict`: the next iteration starts from it.

        That iteration raises a ValueError if it would have to go on in the middle of an epoch of other batches.
        """
        self._loaded = dict(state)

    def _epoch(self) -> int:
        return getattr(self.sampler, "epoch", 0)

    def _start(self) -> int:
        loaded, self._loaded = self._loaded, None
        if loaded is None or loaded["epoch"] != self._epoch():
            return 0
        if loaded["batch_size"] != (self.batch_size or 0):
            raise ValueError(
                f"the epoch was begun in batches of {loaded['batch_size']} and cannot go on in batches of "
                f"{self.batch_size}: resume with the same batch size"
            )
        return loaded["batches"]

    def _rest(self, start: int) -> DataLoader[Any]:
        """A loader of this epoch's remaining batches."""
        assert self.batch_sampler is not None
        return DataLoader(
            self.dataset,
            batch_sampler=list(islice(self.batch_sampler, start, None)),
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=self.pin_memory,
            timeout=self.timeout,
            worker_init_fn=self.worker_init_fn,
            multiprocessing_context=self.multiprocessing_context,
            generator=self.generator,
            prefetch_factor=self.prefetch_factor,
        )
