"""The order of samples in training and in evaluation, for one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sized

from torch.utils.data import DistributedSampler


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffled training order as a function of (seed, epoch), yielding (epoch, position) pairs.

    The order is that of :class:`torch.utils.data.DistributedSampler`, whose ``set_epoch`` Lightning calls
    before each epoch, with one process as with many. The epoch travels with every position, so that the dataset
    can make its augmentation a function of it in whatever worker it runs: persistent, forked or spawned.

    Args:
        dataset: anything with a length.
        num_replicas: number of processes.
        rank: this process, from 0 to num_replicas - 1.
        seed: seed of the order; the same in every process.

    Raises:
        ValueError: rank outside [0, num_replicas - 1].
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for position in super().__iter__():
            yield epoch, position  # type: ignore[misc]


class ShardSampler(DistributedSampler[int]):
    """Evaluation order: process r takes the positions r, r + num_replicas, r + 2 num_replicas, ...

    Unlike its base class it does not pad the shards to equal lengths, so that over all processes each sample
    is counted exactly once. Shards, and so their numbers of batches, may differ by one: reduce metrics at the
    end of the epoch, not at each step.

    Args:
        dataset: anything with a length.
        num_replicas: number of processes.
        rank: this process, from 0 to num_replicas - 1.

    Raises:
        ValueError: rank outside [0, num_replicas - 1].
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.total_size = len(dataset)
        self.num_samples = len(range(rank, self.total_size, num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))
