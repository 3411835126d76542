"""Random augmentation and mixing of training images, seeded by the place of an image or batch in the training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from lipnet.data.draws import Integers, uniform_integers

Batch = tuple[Tensor, Tensor]
Mixing: TypeAlias = v2.MixUp | v2.CutMix

ALTERNATING = "alternating"
"""Value of ``flip`` that flips every image in every other epoch."""

# Separates the random numbers of mixing from those of single images.
_MIXING = 0x6D6978


class Augmentation(Protocol):
    """A transform of uint8 images (B, C, H, W); each result depends on one image, its epoch and its index only."""

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as seen in the given epochs (B,)."""
        ...


class CropAndFlip:
    """Zero padding, a random crop to the original size, and a random horizontal flip.

    Transforms a whole batch at once, on its device. Each image gets the same crop as it would alone.

    Args:
        seed: non-negative integer.
        padding: zeros added on each side; 0 disables cropping.
        flip: flip each image, left to right, with probability 1/2. ``"alternating"`` flips it in every other epoch
            instead: one coin per image chooses the even or the odd epochs, so that two epochs in a row show every image
            both ways (Jordan, arXiv 2404.00498).

    Raises:
        ValueError: padding is negative, or flip is any other text.
    """

    def __init__(self, seed: int, padding: int, flip: bool | str) -> None:
        if padding < 0:
            raise ValueError(f"padding must be non-negative, got {padding}")
        if isinstance(flip, str) and flip != ALTERNATING:
            raise ValueError(f"flip must be true, false or {ALTERNATING!r}, got {flip!r}")
        self.seed, self.padding, self.flip = seed, padding, flip

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as seen in the given epochs (B,)."""
        shifts = 2 * self.padding + 1
        draws = uniform_integers(self.seed, epochs, indices, (shifts, shifts, 1 + bool(self.flip)))
        if self.flip == ALTERNATING:
            # The third draw of epoch 0, which the crop of that epoch does not use.
            coins = uniform_integers(self.seed, np.zeros_like(epochs), indices, (1, 1, 2))[:, 2]
            draws[:, 2] = (coins + epochs) % 2
        row, column, flipped = torch.from_numpy(draws).to(images.device).T.unsqueeze(-1)
        # One gather crops and flips the whole batch: `places` are positions in the padded, flattened images.
        height, width = images.shape[2:]
        across, down = (torch.arange(size, device=images.device) for size in (width, height))
        columns = column + torch.where(flipped == 1, width - 1 - across, across)
        places = (row + down)[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        padded = F.pad(images, [self.padding] * 4).flatten(2)
        return padded.gather(2, places.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)).view_as(images)


def derive_seed(*key: int) -> int:
    """Hash non-negative integers to a 64-bit seed. Neighbouring keys give unrelated random streams."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch's CPU generator from ``key`` inside the block, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[], device_type="cpu"):
        # torch.manual_seed would also reseed every accelerator, and this fork does not restore those.
        torch.default_generator.manual_seed(derive_seed(*key))
        yield


class SeededAugmentation:
    """A random transform of single images, seeded by (seed, epoch, index).

    The result depends neither on the worker process nor on the global random state, which it leaves unchanged.

    Args:
        transform: maps a uint8 image (C, H, W) to another of the same shape. It must draw from torch's CPU generator
            only, as the transforms of ``torchvision.transforms.v2`` do.
        seed: non-negative integer.
    """

    def __init__(self, transform: v2.Transform, seed: int) -> None:
        self.transform, self.seed = transform, seed

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        """Return the image (C, H, W) as seen in an epoch; ``index`` identifies the image."""
        with seeded(self.seed, epoch, index):
            augmented: Tensor = self.transform(image)
        return augmented

    def augment(self, images: Tensor, epochs: Integers, indices: Integers) -> Tensor:
        """Return the images (B, C, H, W) as seen in the given epochs (B,), transformed one by one."""
        each = zip(images, epochs.tolist(), indices.tolist(), strict=True)
        return torch.stack([self(image, epoch, index) for image, epoch, index in each])


def seeded_mix(mixing: Mixing, batch: Batch, num_classes: int, key: tuple[int, int, int, int]) -> Batch:
    """Apply MixUp or CutMix to a batch, seeded by its place in the training.

    Args:
        mixing: torchvision's ``v2.MixUp`` or ``v2.CutMix``.
        batch: floating images (B, C, H, W) and int64 labels (B,).
        num_classes: number of classes.
        key: (seed, epoch, rank, number of the batch in the epoch), each non-negative.

    Returns:
        Images of the same shape, and label probabilities, float32 (B, num_classes).
    """
    images, labels = batch
    with seeded(_MIXING, *key):
        mixed: Batch = mixing(images, F.one_hot(labels, num_classes))
    return mixed
