"""Sample orders for training and evaluation, for one process or several."""

from collections.abc import Iterator, Sized
from fractions import Fraction
from itertools import islice

from torch.utils.data import DistributedSampler

from lipnet.data.checks import check_fraction


class EpochSampler(DistributedSampler[tuple[int, int]]):
    """Shuffled training order, a function of (seed, epoch), that yields (epoch, position) pairs.

    The order equals :class:`torch.utils.data.DistributedSampler`'s, also with a single process. Lightning calls
    ``set_epoch`` before each epoch. The epoch travels with every position, so that the dataset can seed the
    augmentation with it in any worker process, persistent, forked or spawned.

    Args:
        dataset: anything with a length.
        num_replicas: number of processes.
        rank: this process, from 0 to num_replicas - 1.
        seed: seed of the order; the same in every process.

    Raises:
        ValueError: rank is outside [0, num_replicas - 1].
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Leave out the first samples of the next iteration only."""
        self._skipped = samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        skipped, self._skipped = self._skipped, 0
        yield from islice(self._order(), skipped, None)

    def _order(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for position in super().__iter__():
            yield epoch, position  # type: ignore[misc]


class RatioSampler(EpochSampler):
    """Training order with a fixed share of extra samples.

    The length of an epoch does not change: of its n samples, ratio * n are extra ones. They are evenly spread, so any B
    consecutive samples contain ratio * B of them, give or take one. The others are the first own samples in shuffled
    order. Each epoch shuffles both sets anew. An epoch that needs more extra samples than exist passes over them
    several times, each time in another order and with another augmentation. The order is a function of (seed, epoch).

    Args:
        own: number of own samples, at the positions 0..own - 1.
        extra: number of extra samples, at the positions own..own + extra - 1.
        ratio: share of extra samples, strictly between 0 and 1, rounded to a fraction with denominator <= 10^6.
        num_replicas, rank, seed: as for :class:`EpochSampler`.

    Raises:
        ValueError: ratio is outside (0, 1), or there are no extra samples.
    """

    def __init__(self, own: int, extra: int, ratio: float, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(range(own), num_replicas, rank, seed)
        check_fraction("ratio", ratio)
        if extra < 1:
            raise ValueError(f"there must be at least one extra sample, got {extra}")
        self.ratio = Fraction(ratio).limit_denominator(10**6)
        self._extra = EpochSampler(range(extra), num_replicas, rank, seed)

    def _order(self) -> Iterator[tuple[int, int]]:
        own, extra = super()._order(), self._extra_order()
        for sample in range(self.num_samples):
            # An extra sample is due wherever the integer part of ratio * sample grows.
            yield next(extra if int(self.ratio * (sample + 1)) > int(self.ratio * sample) else own)

    def _extra_order(self) -> Iterator[tuple[int, int]]:
        needed = int(self.ratio * self.num_samples)
        passes = -(-needed // self._extra.num_samples)
        for number in range(passes):
            self._extra.set_epoch(self.epoch * passes + number)
            for epoch, position in self._extra:
                yield epoch, len(self.dataset) + position  # type: ignore[arg-type]


class ShardSampler(DistributedSampler[int]):
    """Evaluation order: process r takes the positions r, r + num_replicas, r + 2 num_replicas, ...

    Unlike its base class it does not pad the shards to equal lengths, so all processes together count each sample
    exactly once. The shards, and their numbers of batches, may differ by one: reduce metrics at the end of the epoch,
    not at each step.

    Args:
        dataset: anything with a length.
        num_replicas: number of processes.
        rank: this process, from 0 to num_replicas - 1.

    Raises:
        ValueError: rank is outside [0, num_replicas - 1].
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.total_size = len(dataset)
        self.num_samples = len(range(rank, self.total_size, num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))
