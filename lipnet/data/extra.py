"""Extra training images from files, such as generated ones."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.npyio import NpzFile
from PIL import Image

from lipnet.data.images import LabelledImages
from lipnet.data.spec import DatasetSpec

# Added to the numbers of extra images, so that none has the index of an official one.
FIRST_INDEX = 2**32
# What the readers of archives, arrays and images raise for bytes that are none of their own.
_UNREADABLE = (EOFError, KeyError, OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error)

Array = npt.NDArray[np.generic]


class ExtraImages(ABC):
    """Images that are mixed into the training images.

    Args:
        path: the file or folder that holds them.
        ratio: their share of the samples of each batch, and so of each epoch, strictly between 0 and 1.

    Raises:
        ValueError: a ratio outside (0, 1).
    """

    def __init__(self, path: str | Path, ratio: float) -> None:
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"ratio must lie strictly between 0 and 1, got {ratio}")
        self.path = Path(path).expanduser().absolute()
        self.ratio = ratio

    def read(self, spec: DatasetSpec) -> LabelledImages:
        """Read all of them, checked to fit a dataset.

        Returns:
            Images of shape (N, C, H, W), bytes 0..255, with indices of their own.

        Raises:
            FileNotFoundError: there is nothing at the path.
            ValueError: what is there is damaged, or not of the dataset's shape and classes; the message names it.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"extra images were looked for in {self.path}, which does not exist")
        images, labels = self._arrays(spec)
        size = (spec.image_size, spec.image_size, spec.in_channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != size or len(images) == 0:
            raise ValueError(
                f"extra images for {spec.name} must be uint8 of shape (N, {', '.join(map(str, size))}), N >= 1, got "
                f"{images.dtype} of shape {images.shape} in {self.path}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels of extra images must be integers of shape ({len(images)},), got {labels.dtype} of shape "
                f"{labels.shape} in {self.path}"
            )
        if labels.min() < 0 or labels.max() >= spec.num_classes:
            raise ValueError(
                f"labels of extra images for {spec.name} must be from 0 to {spec.num_classes - 1}, got "
                f"{labels.min()} to {labels.max()} in {self.path}"
            )
        return LabelledImages(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            labels=torch.from_numpy(labels.astype(np.int64)),
            indices=FIRST_INDEX + torch.arange(len(images)),
            maximum=255,
        )

    @abstractmethod
    def _arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        """Images (N, H, W, C) and labels (N,), as they are read; ValueError for files that are damaged."""


class NpzImages(ExtraImages):
    """Images in a NumPy archive: ``image``, uint8 of shape (N, H, W, C), and ``label``, integers of shape (N,).

    This is the layout of the generated CIFAR images that the field uses (Wang et al., "Better Diffusion Models Further
    Improve Adversarial Training", ICML 2023, arXiv 2302.04638). Nothing in the file is executed.
    """

    def _arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        try:
            archive = np.load(self.path, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise ValueError("it is no archive")
            with archive:
                return archive["image"], archive["label"]
        except _UNREADABLE as error:
            raise ValueError(
                f"{self.path} cannot be read as an archive of the arrays 'image' and 'label': damaged? ({error})"
            ) from error


class FolderImages(ExtraImages):
    """Image files in one folder for each class, named by its number: ``0/any.png``, ``1/other.jpg``, ..."""

    def _arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        files = sorted(path for path in self.path.glob("*/*") if path.is_file())
        if not files:
            raise ValueError(f"{self.path} holds no files in folders that are named by the numbers of classes")
        unknown = sorted({path.parent.name for path in files if not path.parent.name.isdecimal()})
        if unknown:
            raise ValueError(f"folders in {self.path} must be named by the numbers of classes, got {unknown}")
        size = (spec.image_size, spec.image_size)
        images = [_decoded(path, size, "RGB" if spec.in_channels == 3 else "L") for path in files]
        labels = np.array([int(path.parent.name) for path in files])
        return np.stack(images).reshape(len(files), *size, -1), labels


def _decoded(path: Path, size: tuple[int, int], mode: str) -> Array:
    """The pixels of an image file, checked to have this width and height."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode))
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image: damaged? ({error})") from error
    if pixels.shape[:2] != size:
        raise ValueError(f"{path} must have {size[0]} x {size[1]} pixels, got {pixels.shape[0]} x {pixels.shape[1]}")
    return pixels
