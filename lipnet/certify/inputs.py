"""Check the images and labels to certify."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

_IMAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# A file of certificates states up to 18 digits.
LARGEST_INDEX = 10**18 - 1
ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]


def checked_batches(
    images: ArrayLike | DataLoader[Any], labels: ArrayLike | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Check the arguments; return an iterator over batches, which checks those of a ``DataLoader`` as they load."""
    if isinstance(images, DataLoader):
        if labels is not None:
            raise ValueError("labels must be None for a DataLoader, which has the labels itself")
        return _loaded_batches(images)
    if labels is None:
        raise ValueError("labels are missing: give an integer for each image, or a DataLoader that has them")
    images, labels = checked_images(images, labels)
    if type(batch_size) is not int or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size}")
    return zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)


def _loaded_batches(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    empty = True
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"a DataLoader must yield images and labels, got {type(batch).__name__}")
        yield checked_images(*batch)
        empty = False
    if empty:
        raise ValueError("the DataLoader has no batches: nothing to certify")


def checked_images(images: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return images and labels as plain tensors; raise ValueError unless they are pixels in [0, 1] and integers."""
    images, labels = _plain_tensor(images), _plain_tensor(labels)
    if images.dim() != 4 or images.dtype not in _IMAGE_DTYPES or images.numel() == 0:
        raise ValueError(
            "images must be in float16, bfloat16, float32 or float64 and of shape (B, C, H, W), each at least 1, got "
            f"{images.dtype} {tuple(images.shape)}"
        )
    integers = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.shape != images.shape[:1] or not integers:
        raise ValueError(
            f"labels must be {len(images)} integers, one for each image, got {labels.dtype} {tuple(labels.shape)}"
        )
    check_pixels(images)
    return images, labels


def check_indices(indices: Tensor) -> None:
    """Raise ValueError unless these are indices of images, each once: integers of shape (n,), as a file can state."""
    integers = indices.dim() == 1 and not (indices.is_floating_point() or indices.is_complex())
    if not integers or indices.dtype == torch.bool or len(indices) == 0:
        raise ValueError(f"indices must be integers (n,), at least one, got {indices.dtype} {tuple(indices.shape)}")
    if int(indices.min()) < 0 or int(indices.max()) > LARGEST_INDEX:
        raise ValueError(f"indices must be from 0 to {LARGEST_INDEX}, got {int(indices.min())} to {int(indices.max())}")
    repeated = len(indices) - len(set(indices.tolist()))
    if repeated:
        raise ValueError(f"indices must name each image once, got {repeated} repetitions")


def check_pixels(images: Tensor) -> None:
    """Raise ValueError unless all pixels of images (B, ...) are numbers in [0, 1], the unit of radii."""
    # In one transfer, because an accelerator waits for it in every batch of a validation. NaN is passed on.
    lowest, highest = torch.stack(images.aminmax()).tolist()
    if not (isfinite(lowest) and isfinite(highest)):
        count = int((~images.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(f"pixels must be numbers in [0, 1], got NaN or infinity in {count} of {len(images)} images")
    if lowest < 0 or highest > 1:
        raise ValueError(f"pixels must lie in [0, 1], got [{lowest:g}, {highest:g}]: let the model normalise them")


def _plain_tensor(values: ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        if values.is_nested or values.layout != torch.strided or values.is_meta:
            kind = "nested" if values.is_nested else "meta" if values.is_meta else "sparse"
            raise ValueError(f"images and labels must be dense tensors with values, got a {kind} tensor")
        return values.as_subclass(Tensor)
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError("images and labels must be complete, got a masked array")
    try:
        if not isinstance(values, np.ndarray) and any(isinstance(each, Tensor) for each in values):
            return torch.stack([_plain_tensor(each) for each in values])
        return torch.tensor(np.asarray(values))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"images and labels must be arrays of numbers: {error}") from error
