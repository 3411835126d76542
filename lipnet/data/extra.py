"""Extra training images read from files, such as those of a generative model."""

import zipfile
import zlib
from abc import ABC, abstractmethod
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy

from lipnet.data.checks import check_fraction
from lipnet.data.decoding import decode_exact
from lipnet.data.images import LabelledImages
from lipnet.data.spec import DatasetSpec
from lipnet.data.trees import scan_tree
from lipnet.files import resolve_path
from lipnet.functional.digest import tensors_sha256

# First index of the extra images, beyond the indices of all official images.
FIRST_INDEX = 2**32
# No images compress this well. An archive that does would fill the memory from a small file.
MAXIMUM_COMPRESSION = 100
# Exceptions that the readers of archives and arrays raise for bytes in another format.
_UNREADABLE = (EOFError, KeyError, OSError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error, MemoryError)

Array = npt.NDArray[np.generic]


class ExtraImages(ABC):
    """Images mixed into the training images.

    Args:
        path: the file or folder with the images.
        ratio: share of extra images in each batch, and so in each epoch, strictly between 0 and 1.

    Raises:
        ValueError: ratio is outside (0, 1).
    """

    def __init__(self, path: str | Path, ratio: float) -> None:
        check_fraction("ratio", ratio)
        self.path = resolve_path(path)
        self.ratio = ratio
        self.sha256: str | None = None
        """The SHA-256 of the images and labels that `read` returned last, in their order; None before."""

    def read(self, spec: DatasetSpec) -> LabelledImages:
        """Read all images and check that they fit a dataset.

        Returns:
            Images of shape (N, C, H, W), bytes 0..255, with unique indices from 2^32 on.

        Raises:
            FileNotFoundError: nothing exists at the path.
            ValueError: the file is damaged, or its images or classes do not fit the dataset; the message names it.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"extra images were looked for in {self.path}, which does not exist")
        images, labels = self._read_arrays(spec)
        if labels.min() < 0 or labels.max() >= spec.num_classes:
            raise ValueError(
                f"labels of extra images for {spec.name} must be from 0 to {spec.num_classes - 1}, got "
                f"{labels.min()} to {labels.max()} in {self.path}"
            )
        tensors = {
            "images": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            "labels": torch.from_numpy(labels.astype(np.int64)),
        }
        self.sha256 = tensors_sha256(tensors)
        return LabelledImages(**tensors, indices=FIRST_INDEX + torch.arange(len(images)), maximum=255)

    @abstractmethod
    def _read_arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        """Read uint8 images (N, H, W, C) of the dataset's size and integer labels (N,), N >= 1."""


class NpzImages(ExtraImages):
    """Images in a NumPy archive: ``image``, uint8 of shape (N, H, W, C), and ``label``, integers of shape (N,).

    This is the layout of the generated CIFAR images that the field uses (Wang et al., "Better Diffusion Models Further
    Improve Adversarial Training", ICML 2023, arXiv 2302.04638). Nothing in the file is executed, and shapes are checked
    before the arrays are read.
    """

    def _read_arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        size = (spec.image_size, spec.image_size, spec.in_channels)
        try:
            with zipfile.ZipFile(self.path) as archive:
                inflated = sum(entry.file_size for entry in archive.infolist())
                if inflated > MAXIMUM_COMPRESSION * self.path.stat().st_size:
                    raise ValueError(f"it inflates to {inflated} bytes, more than {MAXIMUM_COMPRESSION} times its size")
                shape, dtype = _read_header(archive, "image.npy")
                label_shape, label_dtype = _read_header(archive, "label.npy")
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if dtype != np.uint8 or len(shape) != 4 or shape[1:] != size or shape[0] == 0:
            raise ValueError(
                f"extra images for {spec.name} must be uint8 of shape (N, {', '.join(map(str, size))}), N >= 1, got "
                f"{dtype} of shape {shape} in {self.path}"
            )
        if not np.issubdtype(label_dtype, np.integer) or label_shape != shape[:1]:
            raise ValueError(
                f"labels of extra images must be integers of shape ({shape[0]},), got {label_dtype} of shape "
                f"{label_shape} in {self.path}"
            )
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return arrays["image"], arrays["label"]
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: BaseException) -> ValueError:
        reason = str(error) or type(error).__name__
        return ValueError(
            f"{self.path} cannot be read as an archive of the arrays 'image' and 'label': damaged? ({reason})"
        )


def _read_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return shape and dtype of an array without reading its data."""
    with archive.open(name) as file:
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    if dtype.hasobject or prod(shape) * dtype.itemsize > archive.getinfo(name).file_size:
        raise ValueError(f"{name} holds Python objects, or less data than its shape {shape} needs")
    return shape, dtype


class FolderImages(ExtraImages):
    """Image files in one folder per class, named by the class number: ``0/any.png``, ``1/other.jpg``, ...

    PNG, JPEG, BMP, WebP and PPM files are read, also in folders within the folder of a class. Hidden files and the
    clutter of file managers are skipped. 16-bit grey values are rounded to 8 bits.
    """

    def _read_arrays(self, spec: DatasetSpec) -> tuple[Array, Array]:
        if not self.path.is_dir():
            raise ValueError(f"{self.path} must be a folder with a folder for each class number, got a file")
        tree = scan_tree(self.path)
        unknown = [name for name in tree.classes if not name.isdecimal()]
        if unknown:
            raise ValueError(f"folders in {self.path} must be named by class numbers, got {unknown}")
        size, mode = (spec.image_size, spec.image_size), "RGB" if spec.in_channels == 3 else "L"
        images = [decode_exact(tree.path(position), size, mode) for position in range(len(tree.files))]
        numbers = np.array([int(name) for name in tree.classes])
        return np.stack(images).reshape(len(images), *size, -1), numbers[tree.labels.numpy()]
