"""Images held as bytes, and the datasets that serve them as tensors in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of one official split, kept once in memory as bytes.

    Attributes:
        images: uint8, shape (N, C, H, W), values 0..maximum.
        labels: int64, shape (N,).
        indices: int64, shape (N,), the position of each image in the official file.
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


def to_unit_range(image: Tensor, maximum: int) -> Tensor:
    """Turn bytes 0..maximum into float32 in [0, 1]: a new tensor of the same shape, ``image / maximum``."""
    return image.to(torch.float32).div_(maximum)


def augmentation_seed(seed: int, epoch: int, index: int) -> int:
    """Mix three non-negative integers into a 64-bit seed: neighbouring triples give unrelated streams."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


class SeededAugmentation:
    """A random transform made a function of (image, seed, epoch, index).

    Neither the worker that applies it nor the global random state matters, and that state is left as it was.

    Args:
        transform: maps a uint8 image of shape (C, H, W) to another; draws from torch's CPU generator alone.
        seed: non-negative integer.
    """

    def __init__(self, transform: v2.Transform, seed: int) -> None:
        self.transform = transform
        self.seed = seed

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """Return the image of shape (C, H, W) as it is seen in an epoch; ``index`` tells the images apart."""
        with torch.random.fork_rng(devices=[], device_type="cpu"):
            # torch.manual_seed would also reseed every accelerator, which this fork does not restore.
            torch.default_generator.manual_seed(augmentation_seed(self.seed, epoch, index))
            augmented: Tensor = self.transform(image)
        return augmented


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Some of the images of a split, unaltered or augmented.

    Item (epoch, i), as :class:`lipnet.data.EpochSampler` yields it, is the i-th of them as (image, label):
    float32 in [0, 1] of shape (C, H, W), and an int. Item i stands for (0, i); without augmentation all epochs
    are alike.

    Args:
        source: the images to choose from; shared, not copied.
        positions: int64 of shape (n,), the positions in ``source`` to serve, in this order.
        augmentation: applied to each image, or None.
    """

    def __init__(
        self, source: LabelledImages, positions: Tensor, augmentation: SeededAugmentation | None = None
    ) -> None:
        self.source = source
        self.positions = positions
        self.augmentation = augmentation

    @property
    def indices(self) -> Tensor:
        """The index in the official file of each image, int64 of shape (n,)."""
        return self.source.indices[self.positions]

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int]:
        epoch, i = item if isinstance(item, tuple) else (0, item)
        position = int(self.positions[i])
        image = self.source.images[position]
        if self.augmentation is not None:
            image = self.augmentation(image, epoch, int(self.source.indices[position]))
        return to_unit_range(image, self.source.maximum), int(self.source.labels[position])
