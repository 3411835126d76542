"""Images stored as bytes, and the dataset that serves them as tensors in [0, 1]."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipnet.data.augmentation import Augmentation, Batch
from lipnet.functional.digest import batch_sha256

Item = int | tuple[int, int]


class ImageBytes(Protocol):
    """Bytes of images, uint8 (N, C, H, W): a tensor, or files that are decoded when they are indexed."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def ndim(self) -> int: ...

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def device(self) -> torch.device: ...

    def __getitem__(self, positions: Any) -> Tensor: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and labels, such as one official split: bytes in memory, or files that are decoded when indexed.

    Attributes:
        images: uint8, shape (N, C, H, W), values 0..maximum.
        labels: int64, shape (N,).
        indices: int64, shape (N,), a unique number for each image, such as its position in the official file.
        maximum: the byte that stands for the pixel value 1.

    Raises:
        ValueError: a tensor has another shape or dtype, or the lengths differ.
    """

    images: ImageBytes
    labels: Tensor
    indices: Tensor
    maximum: int

    def __post_init__(self) -> None:
        images = self.images
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
            )
        expected = (len(images),)
        for name, values in (("labels", self.labels), ("indices", self.indices)):
            if values.dtype != torch.int64 or tuple(values.shape) != expected:
                raise ValueError(
                    f"{name} must be int64 of shape {expected}, got {values.dtype} of shape {tuple(values.shape)}"
                )

    def __len__(self) -> int:
        return self.images.shape[0]

    def joined(self, other: LabelledImages) -> LabelledImages:
        """Return a copy of these images followed by the others.

        Raises:
            ValueError: the images differ in shape or ``maximum``, or these images are not in memory.
        """
        if self.maximum != other.maximum:
            raise ValueError(
                f"extra images are bytes 0..{other.maximum}, but the training images are 0..{self.maximum}: this "
                "dataset takes no extra images"
            )
        if self.images.shape[1:] != other.images.shape[1:]:
            raise ValueError(
                f"images of shape {tuple(self.images.shape[1:])} cannot be joined by images of shape "
                f"{tuple(other.images.shape[1:])}"
            )
        if not isinstance(self.images, Tensor):
            raise ValueError(
                f"extra images can only join images in memory, got {type(self.images).__name__}: use data.loader=memory"
            )
        images, labels, indices = (
            torch.cat([getattr(self, name), getattr(other, name)]) for name in ("images", "labels", "indices")
        )
        return LabelledImages(images, labels, indices, self.maximum)


def to_unit_range(image: Tensor, maximum: int) -> Tensor:
    """Convert bytes 0..maximum to float32 in [0, 1]: a new tensor ``image / maximum``."""
    # To divide by a number, an accelerator may multiply by its rounded reciprocal. Division by a tensor rounds once.
    return image.to(torch.float32).div_(torch.tensor(float(maximum), device=image.device))


def _bytes(values: Tensor) -> bytes:
    return values.cpu().contiguous().numpy().tobytes()


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Selected images of a split, plain or augmented, served one by one or as batches.

    Item (epoch, i), as :class:`lipnet.data.samplers.EpochSampler` yields it, is the i-th image and its label: float32
    in [0, 1] of shape (C, H, W), and an int. Item i stands for (0, i). The epoch only matters to augmentations.

    Args:
        source: the images to select from; shared, not copied.
        positions: int64 of shape (n,), the positions in ``source`` to serve, in this order.
        augmentations: applied to the images in this order.
    """

    def __init__(self, source: LabelledImages, positions: Tensor, augmentations: Sequence[Augmentation] = ()) -> None:
        self.source, self.positions, self.augmentations = source, positions, tuple(augmentations)

    @property
    def indices(self) -> Tensor:
        """The index of each image in the official file, int64 of shape (n,)."""
        return self.source.indices[self.positions]

    def digests(self, count: int, batch_size: int) -> tuple[str, list[str]]:
        """Return the SHA-256 of the first ``count`` images, and the `batch_sha256` of each batch in which they come.

        The first one is of the bytes of all images, their labels and their indices. Augmentation is left out.
        """
        labels = self.source.labels[self.positions[:count].to(self.source.labels.device)].cpu()
        selected = (self.positions[:count], labels, self.indices[:count])
        shape = (len(labels), *self.source.images.shape[1:])
        digest = hashlib.sha256(f"{shape} 0..{self.source.maximum}".encode())
        batches = []
        for positions, *others in zip(*(torch.split(each, batch_size) for each in selected), strict=True):
            images = self.source.images[positions.to(self.source.images.device)]
            digest.update(_bytes(images))
            batches.append(batch_sha256(to_unit_range(images, self.source.maximum), *others))
        for values in selected[1:]:
            digest.update(_bytes(values))
        return digest.hexdigest(), batches

    def to(self, device: torch.device) -> ImageDataset:
        """Return the dataset with its images and labels on ``device``; indices stay on the CPU."""
        if self.source.images.device == device:
            return self
        images, labels = self.source.images[self.positions].to(device), self.source.labels[self.positions].to(device)
        served = LabelledImages(images, labels, self.indices, self.source.maximum)
        return ImageDataset(served, torch.arange(len(self)), self.augmentations)

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, item: Item) -> tuple[Tensor, int]:
        images, labels = self.batch([item])
        return images[0], int(labels[0])

    def __getitems__(self, items: Sequence[Item]) -> list[tuple[Tensor, int]]:
        """Return several items for a DataLoader to collate."""
        images, labels = self.batch(items)
        return list(zip(images, labels.tolist(), strict=True))

    def batch(self, items: Sequence[Item]) -> Batch:
        """Return a batch, on the device of the images.

        Args:
            items: B pairs (epoch, i), or numbers i.

        Returns:
            Images, float32 in [0, 1] of shape (B, C, H, W), and labels, int64 of shape (B,), bit-identical to the
            items one by one.
        """
        pairs = np.array([item if isinstance(item, tuple) else (0, item) for item in items], dtype=np.int64)
        positions = self.positions[torch.from_numpy(pairs[:, 1])]
        places = positions.to(self.source.images.device)
        images, labels = self.source.images[places], self.source.labels[places]
        for augmentation in self.augmentations:
            images = augmentation.augment(images, pairs[:, 0], self.source.indices[positions].numpy())
        return to_unit_range(images, self.source.maximum), labels
