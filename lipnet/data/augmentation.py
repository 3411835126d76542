"""Random augmentations as functions of (image, seed, epoch, index), whoever applies them and in whatever company."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from lipnet.data.draws import Integers, uniform_integers


class Augmentation(Protocol):
    """Maps images (B, C, H, W) of bytes to others, each as a function of itself, its epoch and its index."""

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as they are seen in these epochs, each of shape (B,)."""
        ...


class CropAndFlip:
    """Pad with zeros on each side, crop at random to the image's size, and flip half of the images.

    All images of a batch at once, on the device where they are; the same for each image alone.

    Args:
        seed: non-negative integer.
        padding: zeros on each side; 0 leaves the crop out.
        flip: whether images are flipped, left to right, with probability 1/2.

    Raises:
        ValueError: for a negative padding.
    """

    def __init__(self, seed: int, padding: int, flip: bool) -> None:
        if padding < 0:
            raise ValueError(f"padding must be non-negative, got {padding}")
        self.seed, self.padding, self.flip = seed, padding, flip

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as they are seen in these epochs."""
        shifts = 2 * self.padding + 1
        draws = uniform_integers(self.seed, epochs, indices, (shifts, shifts, 1 + self.flip))
        row, column, flipped = torch.from_numpy(draws).to(images.device).T.unsqueeze(-1)
        height, width = images.shape[2:]
        across, down = (torch.arange(size, device=images.device) for size in (width, height))
        columns = column + torch.where(flipped == 1, width - 1 - across, across)
        places = (row + down)[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, places.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)).view_as(images)


def augmentation_seed(seed: int, epoch: int, index: int) -> int:
    """Mix three non-negative integers into a 64-bit seed: neighbouring triples give unrelated streams."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


class SeededAugmentation:
    """A random transform of single images made a function of (image, seed, epoch, index).

    Neither the worker that applies it nor the global random state matters, and that state is left as it was.

    Args:
        transform: maps a uint8 image of shape (C, H, W) to another of this shape; draws from torch's CPU generator
            alone, as the transforms of ``torchvision.transforms.v2`` do.
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

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as they are seen in these epochs, one after another."""
        each = zip(images, epochs.tolist(), indices.tolist(), strict=True)
        return torch.stack([self(image, epoch, index) for image, epoch, index in each])
