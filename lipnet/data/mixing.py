"""Mixing of the images of a batch with one another, labels included: mixup and CutMix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

Batch = tuple[Tensor, Tensor]

# Tells the stream of numbers of mixing from those of other uses of the same seed.
_STREAM = 0x6D6978


class Mixing(ABC):
    """Mixes each image of a batch with the one before it, by a share drawn for the batch.

    Labels become probabilities: lambda for the image's own class and 1 - lambda for the other's. What is drawn is a
    function of (seed, epoch, rank, number of the batch).

    Args:
        alpha: of the distribution Beta(alpha, alpha) of the share lambda, > 0.

    Raises:
        ValueError: for an alpha that is not positive and finite.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {alpha}")
        self.alpha = alpha

    def mix(self, batch: Batch, num_classes: int, key: tuple[int, int, int, int]) -> Batch:
        """Mix a batch.

        Args:
            batch: images, floating of shape (B, C, H, W), and labels, int64 of shape (B,).
            num_classes: number of classes.
            key: (seed, epoch, rank, number of the batch in the epoch), each non-negative.

        Returns:
            Images of the same shape, and probabilities, float32 of shape (B, num_classes).
        """
        images, labels = batch
        generator = np.random.default_rng((_STREAM, *key))
        images, share = self._blend(images, images.roll(1, 0), float(generator.beta(self.alpha, self.alpha)), generator)
        probabilities = one_hot(labels, num_classes).to(torch.float32)
        return images, share * probabilities + (1 - share) * probabilities.roll(1, 0)

    @abstractmethod
    def _blend(
        self, images: Tensor, others: Tensor, share: float, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        """The mixed images, and the share that the first ones have in them."""


class MixUp(Mixing):
    """mixup: lambda x + (1 - lambda) x', pixel by pixel.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018 (arXiv 1710.09412).
    """

    def _blend(
        self, images: Tensor, others: Tensor, share: float, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        return share * images + (1 - share) * others, share


class CutMix(Mixing):
    """CutMix: a rectangle of x' of the area 1 - lambda, as far as it lies inside the image, is pasted into x.

    Its centre is uniform; lambda is then the share of pixels that are left of x.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV
    2019 (arXiv 1905.04899).
    """

    def _blend(
        self, images: Tensor, others: Tensor, share: float, generator: np.random.Generator
    ) -> tuple[Tensor, float]:
        spans = []
        for size in images.shape[2:]:
            centre, half = int(generator.integers(size)), int(size * sqrt(1 - share)) // 2
            spans.append((max(0, centre - half), min(size, centre + half)))
        (top, bottom), (left, right) = spans
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
