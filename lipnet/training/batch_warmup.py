"""Callback that lets the batch size grow in training."""

from collections.abc import Mapping, Sequence
from itertools import count
from math import ceil
from typing import Any

from lightning.pytorch.callbacks import GradientAccumulationScheduler


class BatchWarmup(GradientAccumulationScheduler):
    """Batch-size warm-up: from given epochs on, an optimizer step takes several batches of the loader.

    A step in epoch e has :math:`B_e = k_e B` samples, for the loader's batch size B and the factor k_e of the last
    entry that is not after e. Accumulated gradients are the gradients of the mean loss over all B_e samples. Schedules
    over steps take into account that later epochs have fewer steps.

    Args:
        growth: epoch to factor, increasing from epoch 0, such as ``{0: 1, 5: 2, 10: 4}``; or the pairs of epoch and
            factor, ``[[0, 1], [5, 2], [10, 4]]``.

    Raises:
        ValueError: for epochs that do not start with 0 and increase, for factors below 1, and for other entries than
            integers.

    Source: Smith et al., "Don't decay the learning rate, increase the batch size", ICLR 2018 (arXiv 1711.00489).

    Example:
        >>> BatchWarmup({0: 1, 2: 4}).steps(batches=10, epochs=3)
        23
    """

    def __init__(self, growth: Mapping[int, int] | Sequence[Sequence[int]]) -> None:
        self.growth = _growth_of(growth)
        super().__init__(dict(self.growth))

    def factor(self, epoch: int) -> int:
        """Return the factor k_e of an epoch e."""
        return [factor for first, factor in self.growth.items() if first <= epoch][-1]

    def steps(self, batches: int, epochs: int) -> int:
        """Return the number of optimizer steps in a training, from its epochs and the loader's batches per epoch."""
        return sum(-(-batches // self.factor(epoch)) for epoch in range(epochs))

    def batches(self, steps: int, batches: float) -> float:
        """Return the number of the loader's batches in the first optimizer steps, from its batches per epoch."""
        done = 0.0
        for epoch in count():
            taken = steps * self.factor(epoch)
            if taken <= batches:
                break
            steps, done = steps - ceil(batches / self.factor(epoch)), done + batches
        return done + taken


def _growth_of(growth: Any) -> dict[int, int]:
    """Return epochs and factors as a mapping; raise ValueError as `BatchWarmup`."""
    entries = list(growth.items() if isinstance(growth, Mapping) else growth if isinstance(growth, Sequence) else [])
    pairs = [tuple(each) for each in entries if isinstance(each, Sequence)]
    whole = len(pairs) == len(entries) and all(len(pair) == 2 and {*map(type, pair)} == {int} for pair in pairs)
    epochs = [epoch for epoch, _ in pairs] if whole else []
    if not epochs or epochs[0] != 0 or epochs != sorted(set(epochs)) or any(factor < 1 for _, factor in pairs):
        raise ValueError(
            f"growth must map epochs, increasing from 0, to factors of at least 1, got {growth}: state pairs of epoch "
            "and factor, such as [[0, 1], [5, 2]]"
        )
    return dict(pairs)
