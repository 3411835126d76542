"""Small stand-ins for the CIFAR files, in the official layout, with checksums that torchvision accepts."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets


@dataclass(frozen=True)
class FakeCIFAR:
    """Folders of fake CIFAR files, with the images (N, 3, 32, 32) and labels (N,) in them."""

    root: Path
    folder: Path
    training_images: np.ndarray
    training_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def write_pickle(path: Path, content: dict[str, object]) -> str:
    """Write a file in the official format, and return its MD5 checksum."""
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def plain_labels(classes: np.ndarray) -> dict[str, object]:
    """Return the labels in the form of a CIFAR-10 file."""
    return {"labels": classes.tolist()}


def fine_and_coarse(classes: np.ndarray) -> dict[str, object]:
    """Return the labels in the form of a CIFAR-100 file; the coarse class is the fine class modulo 20."""
    return {"fine_labels": classes.tolist(), "coarse_labels": (classes % 20).tolist()}


@pytest.fixture
def write_fake_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[type[datasets.CIFAR10]], FakeCIFAR]:
    """Return a function that writes 10 training and 2 test images of each class, and the list of their checksums."""

    def write(reader: type[datasets.CIFAR10]) -> FakeCIFAR:
        generator = np.random.default_rng(3)
        num_classes = 100 if reader is datasets.CIFAR100 else 10
        labels_of = fine_and_coarse if reader is datasets.CIFAR100 else plain_labels
        folder = tmp_path / reader.base_folder
        folder.mkdir()
        written = []
        for file_list, per_class in (("train_list", 10), ("test_list", 2)):
            labels = generator.permutation(np.repeat(np.arange(num_classes), per_class))
            images = generator.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
            names = [name for name, _ in getattr(reader, file_list)]
            parts = zip(names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True)
            checksums = [
                [name, write_pickle(folder / name, {"data": rows.reshape(len(rows), -1), **labels_of(classes)})]
                for name, rows, classes in parts
            ]
            monkeypatch.setattr(reader, file_list, checksums)
            written += [images, labels]
        names_of_classes = [f"class {label}" for label in range(num_classes)]
        checksum = write_pickle(folder / reader.meta["filename"], {reader.meta["key"]: names_of_classes})
        monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": checksum})
        return FakeCIFAR(tmp_path, folder, *written)

    return write
