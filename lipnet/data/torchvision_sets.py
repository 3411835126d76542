"""SVHN, MNIST and Fashion-MNIST, read by torchvision from their official files."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from lipnet.data.images import LabelledImages
from lipnet.data.official import OfficialFiles
from lipnet.data.spec import FASHION_MNIST_SPEC, MNIST_SPEC, SVHN_SPEC


class SVHNDataModule(OfficialFiles):
    """SVHN from ``train_32x32.mat`` and ``test_32x32.mat``; arguments as for :class:`OfficialFiles`.

    Indices are positions in the files. By default, training images are padded with 4 zeros on each side and cropped at
    random to 32 x 32. They are not flipped.
    """

    spec = SVHN_SPEC
    usual_crop_padding = 4
    usual_flip = False

    def prepare_data(self) -> None:
        """Fetch the files if ``download`` is set and one is missing or damaged."""
        if not self.download:
            return
        for split in ("train", "test"):
            _, name, checksum = datasets.SVHN.split_list[split]
            if not check_integrity(self.data_dir / name, checksum):
                self.data_dir.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=self.data_dir, prefix=".download-") as folder:
                    datasets.SVHN(folder, split=split, download=True)
                    os.replace(Path(folder, name), self.data_dir / name)

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 73257 training images or the 26032 test images.

        Raises:
            FileNotFoundError: the file is missing.
            OSError: the MD5 checksum of the file is not the official one.
        """
        split = "train" if train else "test"
        _, name, checksum = datasets.SVHN.split_list[split]
        self.check_present(self.data_dir, [name])
        if not check_integrity(self.data_dir / name, checksum):
            raise self.damaged(self.data_dir / name)
        read = datasets.SVHN(self.data_dir, split=split)
        images = torch.from_numpy(read.data).contiguous()
        return LabelledImages(images, torch.from_numpy(read.labels), torch.arange(len(images)), maximum=255)


class MNISTDataModule(OfficialFiles):
    """MNIST from the folder ``MNIST/raw``; arguments as for :class:`OfficialFiles`.

    Indices are positions in the files. By default, training images are padded with 2 zeros on each side and cropped at
    random to 28 x 28. They are not flipped.
    """

    spec = MNIST_SPEC
    usual_crop_padding = 2
    usual_flip = False
    reader: ClassVar[type[datasets.MNIST]] = datasets.MNIST
    counts: ClassVar[dict[str, int]] = {"train": 60000, "test": 10000}

    @property
    def folder(self) -> Path:
        """The folder of the uncompressed files."""
        return self.data_dir / self.reader.__name__ / "raw"

    def prepare_data(self) -> None:
        """Fetch the files if ``download`` is set and one is missing."""
        names = [*_mnist_names(train=True), *_mnist_names(train=False)]
        if not self.download or not self.missing_files(self.folder, names):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.data_dir, prefix=".download-") as folder:
            self.reader(folder, download=True)
            for name in names:
                os.replace(Path(folder, self.reader.__name__, "raw", name), self.folder / name)

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 60000 training images or the 10000 test images.

        Raises:
            FileNotFoundError: a file is missing.
            OSError: a file has another size than its header states, the number of images or labels is not the official
                one, or a label is no class.
        """
        names = _mnist_names(train)
        self.check_present(self.folder, names)
        paths = [self.folder / name for name in names]
        for path in paths:
            if self._count(path) != self.counts["train" if train else "test"]:
                raise self.damaged(path)
        images, labels = read_image_file(str(paths[0])), read_label_file(str(paths[1]))
        if bool((labels >= self.num_classes).any()):
            raise self.damaged(paths[1])
        return LabelledImages(images.unsqueeze(1), labels, torch.arange(len(images)), maximum=255)

    def _count(self, path: Path) -> int:
        """Return the number of images or labels that a file's header states, and compare it with the file's size."""
        with path.open("rb") as file:
            magic, count, *size = (int.from_bytes(file.read(4), "big") for _ in range(4))
        # Two zero bytes, the code of uint8, and the number of dimensions: 3 for images, 1 for labels.
        images = magic == 0x803 and size == [self.spec.image_size] * 2
        expected = 16 + count * self.spec.image_size**2 if images else 8 + count
        if magic not in (0x801, 0x803) or count == 0 or path.stat().st_size != expected:
            raise self.damaged(path)
        return count


def _mnist_names(train: bool) -> list[str]:
    split = "train" if train else "t10k"
    return [f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"]


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST from the folder ``FashionMNIST/raw``; as :class:`MNISTDataModule`, but images are flipped."""

    spec = FASHION_MNIST_SPEC
    usual_flip = True
    reader = datasets.FashionMNIST
