"""Seeded, stratified split of a labelled set into two parts."""

import numpy as np
import numpy.typing as npt

from lipnet.data.checks import check_fraction

IntegerArray = npt.NDArray[np.int64]


def stratified_split(labels: npt.ArrayLike, fraction: float, seed: int) -> tuple[IntegerArray, IntegerArray]:
    """Set aside the same fraction of every class.

    A class of n samples contributes ``round(fraction * n)`` of them to the second part. The choice is a function of the
    arguments; the global random state is neither read nor changed.

    Args:
        labels: class of each sample, integers of shape (N,).
        fraction: part of each class to set aside, strictly between 0 and 1.
        seed: non-negative integer.

    Returns:
        (train_indices, validation_indices): sorted positions in ``labels``, int64, disjoint, together all of 0..N-1.

    Raises:
        ValueError: labels are not one-dimensional integers, fraction is outside (0, 1), the seed is negative, or a
            class is so small that one of its parts would be empty.
    """
    label_array = np.asarray(labels)
    if label_array.ndim != 1 or not np.issubdtype(label_array.dtype, np.integer) or label_array.size == 0:
        raise ValueError(
            "labels must be a non-empty one-dimensional array of integers, "
            f"got shape {label_array.shape} of {label_array.dtype}"
        )
    check_fraction("fraction", fraction)
    if seed < 0:
        raise ValueError(f"seed must be non-negative, got {seed}")
    # numpy keeps the raw stream of a bit generator stable between releases, unlike Generator's methods. The validation
    # images of an old checkpoint therefore stay its validation images.
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
    train, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    return train.astype(np.int64), validation.astype(np.int64)
