"""Images held as bytes, and the datasets that serve them as tensors in [0, 1]."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipnet.data.augmentation import Augmentation

Item = int | tuple[int, int]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their labels, such as those of one official split, kept once in memory as bytes.

    Attributes:
        images: uint8, shape (N, C, H, W), values 0..maximum.
        labels: int64, shape (N,).
        indices: int64, shape (N,), the position of each image in the official file, or another number that tells it
            from all others.
        maximum: the value that stands for 1.

    Raises:
        ValueError: a tensor with another shape or dtype, or lengths that differ.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    maximum: int

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (N, C, H, W), got {self.images.dtype} "
                f"of shape {tuple(self.images.shape)}"
            )
        expected = (self.images.shape[0],)
        for name, values in (("labels", self.labels), ("indices", self.indices)):
            if values.dtype != torch.int64 or tuple(values.shape) != expected:
                raise ValueError(
                    f"{name} must be int64 of shape {expected}, got {values.dtype} of shape {tuple(values.shape)}"
                )

    def __len__(self) -> int:
        return self.images.shape[0]

    def joined(self, other: LabelledImages) -> LabelledImages:
        """Return these images and then the others, copied together.

        Raises:
            ValueError: if the images have different shapes, or another value stands for 1.
        """
        if self.images.shape[1:] != other.images.shape[1:] or self.maximum != other.maximum:
            raise ValueError(
                f"images of shape {tuple(self.images.shape[1:])} up to {self.maximum} cannot be joined by images of "
                f"shape {tuple(other.images.shape[1:])} up to {other.maximum}"
            )
        return LabelledImages(
            images=torch.cat([self.images, other.images]),
            labels=torch.cat([self.labels, other.labels]),
            indices=torch.cat([self.indices, other.indices]),
            maximum=self.maximum,
        )


def to_unit_range(image: Tensor, maximum: int) -> Tensor:
    """Turn bytes 0..maximum into float32 in [0, 1]: a new tensor of the same shape, ``image / maximum``."""
    # Dividing by a number, an accelerator may multiply by its rounded reciprocal; by a tensor, it rounds only once.
    return image.to(torch.float32).div_(torch.tensor(float(maximum), device=image.device))


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Some of the images of a split, unaltered or augmented, one by one or a batch at once.

    Item (epoch, i), as :class:`lipnet.data.EpochSampler` yields it, is the i-th of them as (image, label):
    float32 in [0, 1] of shape (C, H, W), and an int. Item i stands for (0, i); without augmentations all epochs
    are alike.

    Args:
        source: the images to choose from; shared, not copied.
        positions: int64 of shape (n,), the positions in ``source`` to serve, in this order.
        augmentations: applied to the images one after another.
    """

    def __init__(self, source: LabelledImages, positions: Tensor, augmentations: Sequence[Augmentation] = ()) -> None:
        self.source = source
        self.positions = positions
        self.augmentations = tuple(augmentations)

    @property
    def indices(self) -> Tensor:
        """The index in the official file of each image, int64 of shape (n,)."""
        return self.source.indices[self.positions]

    def sha256(self, count: int) -> str:
        """Return the SHA-256 of the first ``count`` images, bytes of ``source``, with their labels and indices."""
        positions = self.positions[:count]
        images = self.source.images[positions.to(self.source.images.device)].cpu()
        digest = hashlib.sha256(f"{tuple(images.shape)} 0..{self.source.maximum}".encode())
        for values in (images, self.source.labels[positions.to(self.source.labels.device)], self.indices[:count]):
            digest.update(values.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> ImageDataset:
        """Return the same dataset with the images that it serves on a device; their indices stay on the CPU."""
        if self.source.images.device == device:
            return self
        served = LabelledImages(
            images=self.source.images[self.positions].to(device),
            labels=self.source.labels[self.positions].to(device),
            indices=self.indices,
            maximum=self.source.maximum,
        )
        return ImageDataset(served, torch.arange(len(self)), self.augmentations)

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, item: Item) -> tuple[Tensor, int]:
        images, labels = self.batch([item])
        return images[0], int(labels[0])

    def __getitems__(self, items: Sequence[Item]) -> list[tuple[Tensor, int]]:
        """Return several items, made at once: what a DataLoader asks for, and collates."""
        images, labels = self.batch(items)
        return list(zip(images, labels.tolist(), strict=True))

    def batch(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Return several items at once, on the device of the images.

        Args:
            items: B pairs (epoch, i), or numbers i.

        Returns:
            Images, float32 in [0, 1] of shape (B, C, H, W), and labels, int64 of shape (B,): bit for bit those of the
            items one by one.
        """
        pairs = np.array([item if isinstance(item, tuple) else (0, item) for item in items], dtype=np.int64)
        positions = self.positions[torch.from_numpy(pairs[:, 1])]
        places = positions.to(self.source.images.device)
        images, labels = self.source.images[places], self.source.labels[places]
        for augmentation in self.augmentations:
            images = augmentation.augment(images, pairs[:, 0], self.source.indices[positions].numpy())
        return to_unit_range(images, self.source.maximum), labels
