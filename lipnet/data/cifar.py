"""CIFAR-10 and CIFAR-100, read by torchvision from their official files."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from lipnet.data.images import LabelledImages
from lipnet.data.official import OfficialFiles
from lipnet.data.spec import CIFAR10_SPEC, CIFAR100_SPEC


def official_files(reader: type[datasets.CIFAR10], train: bool) -> list[tuple[str, str]]:
    """Return (name, MD5 checksum) of the files of one split: its images and the names of the classes."""
    images = reader.train_list if train else reader.test_list
    return [(name, checksum) for name, checksum in images] + [(reader.meta["filename"], reader.meta["md5"])]


def fetch_cifar(reader: type[datasets.CIFAR10], root: Path) -> None:
    """Download the official archive and put its files into ``root``, unless all are there and undamaged.

    The archive is unpacked in a temporary folder and its files are moved one by one, so that several processes can
    fetch at once and none reads an incomplete file.
    """
    folder = root / reader.base_folder
    files = official_files(reader, train=True) + official_files(reader, train=False)
    if all(check_integrity(folder / name, checksum) for name, checksum in files):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix=".download-") as unpacked:
        download_and_extract_archive(reader.url, unpacked, filename=reader.filename, md5=reader.tgz_md5)
        for name in dict(files):
            os.replace(Path(unpacked, reader.base_folder, name), folder / name)


def check_files(reader: type[datasets.CIFAR10], root: Path, train: bool) -> None:
    """Check that the files of one split exist and are the official ones.

    Raises:
        FileNotFoundError: a file is missing; the message says which one and how to provide it.
        OSError: the MD5 checksum of a file is not the official one; the message names the file.
    """
    folder = root / reader.base_folder
    files = official_files(reader, train)
    missing = [name for name, _ in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{reader.__name__} was looked for in {folder}, which lacks {', '.join(missing)}. "
            f"Put the official {reader.base_folder} folder into {root}, or name the folder that holds it "
            "with data.data_dir=..., or fetch it with data.download=true on a machine with network access"
        )
    damaged = [str(folder / name) for name, md5 in files if not check_integrity(folder / name, md5)]
    if damaged:
        raise OSError(
            f"damaged {reader.__name__} file, its MD5 checksum is not the official one: "
            f"{', '.join(damaged)}. Replace it with the one in {reader.url}, or let data.download=true do so"
        )


def read_cifar(reader: type[datasets.CIFAR10], root: Path, train: bool) -> LabelledImages:
    """Read the training or the test images of CIFAR-10 or CIFAR-100, touching only the files of that split.

    Args:
        reader: torchvision's class for the dataset.
        root: absolute path of the folder that contains the official folder, such as ``cifar-100-python``.
        train: read the training images if True, the test images if False.

    Returns:
        Images of shape (N, 3, 32, 32), bytes 0..255, in the order of the official files.

    Raises:
        FileNotFoundError, OSError: as :func:`check_files`.
    """
    check_files(reader, root, train)
    # torchvision would check the files of both splits: an empty list keeps it from the other split.
    other_split: dict[str, Any] = {"test_list" if train else "train_list": []}
    dataset = type(reader.__name__, (reader,), other_split)(root, train=train)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(images, torch.tensor(dataset.targets), torch.arange(len(images)), maximum=255)


class CIFARDataModule(OfficialFiles):
    """Base class of the data modules on CIFAR files; arguments as for :class:`OfficialFiles`.

    By default, training images are padded with 4 zeros on each side, cropped at random to 32 x 32, and flipped at
    random.
    """

    usual_crop_padding = 4
    usual_flip = True
    reader: ClassVar[type[datasets.CIFAR10]]

    def prepare_data(self) -> None:
        """Fetch the official archive if ``download`` is set and one of its files is missing or damaged."""
        if self.download:
            fetch_cifar(self.reader, self.data_dir)

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 50000 training images or the 10000 test images; errors as in :func:`read_cifar`."""
        return read_cifar(self.reader, self.data_dir, train)


class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10 from the folder ``cifar-10-batches-py``; arguments as for :class:`CIFARDataModule`."""

    spec = CIFAR10_SPEC
    reader = datasets.CIFAR10


class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100 from the folder ``cifar-100-python``; arguments as for :class:`CIFARDataModule`."""

    spec = CIFAR100_SPEC
    reader = datasets.CIFAR100
    same_split: ClassVar[tuple[str, ...]] = ("cifar100_coarse",)
    other_split: ClassVar[tuple[str, ...]] = ("cifar100_first_half", "cifar100_second_half")
