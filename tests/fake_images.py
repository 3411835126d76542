"""Small stand-ins for trees of image files and for the files of MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
GENERATOR = np.random.default_rng(0)
COUNTS = {"train": 40, "test": 20}
IDX = {"train": "train", "test": "t10k"}


def labels_of(split: str, classes: int = 10) -> np.ndarray:
    return np.arange(COUNTS[split]) % classes


IMAGES = {split: GENERATOR.integers(0, 256, (count, 28, 28), dtype=np.uint8) for split, count in COUNTS.items()}
COLOURED = {split: GENERATOR.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for split, count in COUNTS.items()}


def write_idx(path: Path, values: np.ndarray) -> None:
    header = (0x800 + values.ndim, *values.shape)
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in header) + values.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> Path:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for split, prefix in IDX.items():
        write_idx(folder / f"{prefix}-images-idx3-ubyte", IMAGES[split])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels_of(split))
    return folder


def picture(seed: int, height: int = 12, width: int = 12, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def write_class(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        picture(100 * seed + number).save(folder / f"{number:03}.png")
