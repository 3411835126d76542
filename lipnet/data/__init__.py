"""LightningDataModules with pixels in [0, 1] and reproducible splits, orders and augmentation."""

from lipnet.data.base import ImageDataModule
from lipnet.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from lipnet.data.cifar100_tasks import (
    CIFAR100CoarseDataModule,
    CIFAR100FirstHalfDataModule,
    CIFAR100SecondHalfDataModule,
)
from lipnet.data.decoding import read_image
from lipnet.data.digits import DigitsDataModule
from lipnet.data.extra import ExtraImages, FolderImages, NpzImages
from lipnet.data.folder import FolderDataModule
from lipnet.data.images import ImageDataset, LabelledImages
from lipnet.data.spec import DatasetSpec
from lipnet.data.tiny_imagenet import TinyImageNetDataModule
from lipnet.data.torchvision_sets import FashionMNISTDataModule, MNISTDataModule, SVHNDataModule

DATAMODULES: dict[str, type[ImageDataModule]] = {
    module.spec.name: module
    for module in (
        CIFAR10DataModule,
        CIFAR100DataModule,
        CIFAR100CoarseDataModule,
        CIFAR100FirstHalfDataModule,
        CIFAR100SecondHalfDataModule,
        DigitsDataModule,
        FashionMNISTDataModule,
        MNISTDataModule,
        SVHNDataModule,
        TinyImageNetDataModule,
    )
} | {"folder": FolderDataModule}
"""The data module of each dataset, by the name in its spec."""

__all__ = [
    "DATAMODULES",
    "CIFAR10DataModule",
    "CIFAR100CoarseDataModule",
    "CIFAR100DataModule",
    "CIFAR100FirstHalfDataModule",
    "CIFAR100SecondHalfDataModule",
    "DatasetSpec",
    "DigitsDataModule",
    "ExtraImages",
    "FashionMNISTDataModule",
    "FolderDataModule",
    "FolderImages",
    "ImageDataModule",
    "ImageDataset",
    "LabelledImages",
    "MNISTDataModule",
    "NpzImages",
    "SVHNDataModule",
    "TinyImageNetDataModule",
    "read_image",
]
