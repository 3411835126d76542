"""Random numbers as a function of where they are used: no state, and the same one by one as many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def uniform_integers(seed: int, epochs: npt.ArrayLike, indices: npt.ArrayLike, bounds: Sequence[int]) -> Integers:
    """Draw independent integers for each (seed, epoch, index), whatever else is drawn with them.

    A counter-based generator: seed, epoch, index and the number of the draw go one after another through the mixing
    function of SplitMix64, and the upper 32 bits are scaled to the range. Each value is as likely as any other up to
    bound / 2^32. The numbers stay the same in every release.

    Args:
        seed: non-negative.
        epochs, indices: non-negative integers, shape (n,).
        bounds: the k numbers of values of the k draws, each from 1 to 2^32.

    Returns:
        int64 of shape (n, k), column j in 0..bounds[j] - 1.

    Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Example:
        >>> uniform_integers(0, [3, 3, 4], [7, 8, 7], bounds=(9, 9, 2)).tolist()
        [[3, 6, 1], [0, 5, 1], [5, 7, 0]]
    """
    state = _mix(np.array([seed], dtype=np.uint64))
    state = _mix(state ^ np.asarray(epochs, dtype=np.uint64))
    state = _mix(state ^ np.asarray(indices, dtype=np.uint64))
    counters = np.arange(len(bounds), dtype=np.uint64) * _GOLDEN
    upper = _mix(state[:, None] + counters) >> np.uint64(32)
    return ((upper * np.asarray(bounds, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's next output for each state; unsigned overflow is meant."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
