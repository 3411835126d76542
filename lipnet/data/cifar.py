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
        """Read the 50000 training images or the 10000 test images, touching only the files of that split.

        Raises:
            FileNotFoundError: a file is missing.
            OSError: the MD5 checksum of a file is not the official one.
        """
        folder = self.data_dir / self.reader.base_folder
        files = official_files(self.reader, train)
        self.check_present(folder, [name for name, _ in files])
        for name, checksum in files:
            if not check_integrity(folder / name, checksum):
                raise self.damaged(folder / name)
        # torchvision would check the files of both splits: an empty list keeps it from the other split.
        unread: dict[str, Any] = {"test_list" if train else "train_list": []}
        read = type(self.reader.__name__, (self.reader,), unread)(self.data_dir, train=train)
        images = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
        return LabelledImages(images, torch.tensor(read.targets), torch.arange(len(images)), maximum=255)


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
