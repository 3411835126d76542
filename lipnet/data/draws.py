"""Counter-based random integers: a function of (seed, epoch, index) without state."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def uniform_integers(seed: int, epochs: npt.ArrayLike, indices: npt.ArrayLike, bounds: Sequence[int]) -> Integers:
    """Draw independent uniform integers for each (seed, epoch, index).

    Chains SplitMix64's mixing function over seed, epoch, index and the number of the draw, and scales the upper 32 bits
    to the range. The bias is at most bound / 2^32. A row does not depend on the other rows of the call, and the numbers
    stay the same in every release of lipnet.

    Args:
        seed: non-negative.
        epochs, indices: non-negative integers, shape (n,).
        bounds: for each of the k draws, the number of its possible values, from 1 to 2^32.

    Returns:
        int64 of shape (n, k); column j lies in 0..bounds[j] - 1.

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
    """Return SplitMix64's next output for each state. Unsigned overflow is intended."""
    values = values + _GOLDEN
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))
