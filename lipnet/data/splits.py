"""Seeded, stratified division of a labelled set into two parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntegerArray = npt.NDArray[np.int64]


def stratified_split(labels: npt.ArrayLike, fraction: float, seed: int) -> tuple[IntegerArray, IntegerArray]:
    """Set aside the same fraction of every class.

    A class of n samples gives ``round(fraction * n)`` of them, chosen by the seed alone, to the second part.
    It depends on ``labels``, ``fraction`` and ``seed`` only: no global random state is read or changed.

    Args:
        labels: class of each sample, integers of shape (N,).
        fraction: part of each class to set aside, strictly between 0 and 1.
        seed: non-negative integer.

    Returns:
        (train_indices, validation_indices): positions in ``labels``, each sorted, int64, disjoint and
        together all of 0..N-1.

    Raises:
        ValueError: labels not one-dimensional integers, fraction outside (0, 1), a negative seed, or a class
            so small that one of its two parts would be empty.
    """
    label_array = np.asarray(labels)
    if label_array.ndim != 1 or not np.issubdtype(label_array.dtype, np.integer) or label_array.size == 0:
        raise ValueError(
            "labels must be a non-empty one-dimensional array of integers, "
            f"got shape {label_array.shape} of {label_array.dtype}"
        )
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie strictly between 0 and 1, got {fraction}")
    if seed < 0:
        raise ValueError(f"seed must be non-negative, got {seed}")
    # The raw stream of a bit generator is the part of numpy's randomness that stays the same between
    # releases, so that a checkpoint's validation images stay its validation images.
    keys = np.random.PCG64(seed).random_raw(label_array.size)
    is_validation = np.zeros(label_array.size, dtype=bool)
    for label in np.unique(label_array):
        members = np.flatnonzero(label_array == label)
        count = round(fraction * members.size)
        if not 0 < count < members.size:
            raise ValueError(
                f"class {label} has {members.size} samples, too few for fraction {fraction}: "
                f"{count} of them would be set aside, and both parts need at least one"
            )
        is_validation[members[np.argsort(keys[members], kind="stable")[:count]]] = True
    return (
        np.flatnonzero(~is_validation).astype(np.int64),
        np.flatnonzero(is_validation).astype(np.int64),
    )
