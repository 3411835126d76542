"""Other tasks on the images of CIFAR-100: the 20 coarse classes, and either half of the 100 classes."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision import datasets

from lipnet.data.cifar import CIFAR100DataModule
from lipnet.data.images import LabelledImages
from lipnet.data.spec import CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES, CIFAR100_SPEC


def read_coarse_labels(root: Path, train: bool) -> Tensor:
    """Read the coarse class of each image, 0..19, int64 (N,), from a file that has been checked."""
    ((name, _),) = datasets.CIFAR100.train_list if train else datasets.CIFAR100.test_list
    content = pickle.loads((root / datasets.CIFAR100.base_folder / name).read_bytes(), encoding="latin1")
    return torch.tensor(content["coarse_labels"])


class CIFAR100CoarseDataModule(CIFAR100DataModule):
    """CIFAR-100 with its 20 coarse classes as labels; arguments as for :class:`CIFAR100DataModule`.

    With the same seed it has the same validation images as CIFAR-100, so a network trained on the coarse classes has
    not seen the validation images of the fine classes.
    """

    spec = replace(CIFAR100_SPEC, name="cifar100_coarse", num_classes=20, classes=CIFAR100_COARSE_CLASSES)
    same_split = ("cifar100",)

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 50000 training images or the 10000 test images; errors as for :class:`CIFAR100DataModule`."""
        return replace(super().read_images(train), labels=read_coarse_labels(self.data_dir, train))

    def split_labels(self) -> Tensor:
        """Return the fine labels of the training images."""
        return super().read_images(train=True).labels


class CIFAR100HalfDataModule(CIFAR100DataModule):
    """The images of 50 classes of CIFAR-100, labelled 0..49; arguments as for :class:`CIFAR100DataModule`."""

    first_class: ClassVar[int]
    """The class of CIFAR-100 that becomes label 0."""
    same_split = ()
    other_split = ("cifar100", "cifar100_coarse")

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 25000 training or 5000 test images of these classes; errors as for :class:`CIFAR100DataModule`."""
        whole = super().read_images(train)
        labels = whole.labels - self.first_class
        chosen = (labels >= 0) & (labels < self.spec.num_classes)
        return LabelledImages(whole.images[chosen], labels[chosen], whole.indices[chosen], whole.maximum)


class CIFAR100FirstHalfDataModule(CIFAR100HalfDataModule):
    """The classes 0..49 of CIFAR-100, in the alphabetical order of its labels."""

    spec = replace(CIFAR100_SPEC, name="cifar100_first_half", num_classes=50, classes=CIFAR100_CLASSES[:50])
    first_class = 0


class CIFAR100SecondHalfDataModule(CIFAR100HalfDataModule):
    """The classes 50..99 of CIFAR-100, in the alphabetical order of its labels."""

    spec = replace(CIFAR100_SPEC, name="cifar100_second_half", num_classes=50, classes=CIFAR100_CLASSES[50:])
    first_class = 50
