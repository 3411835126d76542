"""Tests of lipnet.data.spec."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lipnet.data import (
    DATAMODULES,
    CIFAR10DataModule,
    CIFAR100CoarseDataModule,
    CIFAR100DataModule,
    CIFAR100FirstHalfDataModule,
    CIFAR100SecondHalfDataModule,
    DatasetSpec,
    DigitsDataModule,
    FashionMNISTDataModule,
    FolderDataModule,
    ImageDataModule,
    MNISTDataModule,
    SVHNDataModule,
    TinyImageNetDataModule,
)


def test_modules_are_found_by_the_name_in_their_spec() -> None:
    expected = {"cifar10": CIFAR10DataModule, "cifar100": CIFAR100DataModule, "digits": DigitsDataModule}
    expected |= {
        "cifar100_coarse": CIFAR100CoarseDataModule,
        "cifar100_first_half": CIFAR100FirstHalfDataModule,
        "cifar100_second_half": CIFAR100SecondHalfDataModule,
    }
    expected |= {
        "fashion_mnist": FashionMNISTDataModule,
        "folder": FolderDataModule,
        "mnist": MNISTDataModule,
        "svhn": SVHNDataModule,
        "tiny_imagenet": TinyImageNetDataModule,
    }
    assert expected == DATAMODULES
    for name, module in DATAMODULES.items():
        # The spec of one's own images is measured.
        assert name == "folder" or module.spec.name == name


def test_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DigitsDataModule.spec.std = 1.0  # type: ignore[misc]


def test_names_of_classes_are_in_the_order_of_the_official_labels() -> None:
    # The official files sort them, with underscores in place of spaces; .ci/real_cifar100.py compares with the files.
    for module in (CIFAR100DataModule, CIFAR100CoarseDataModule):
        names = module.spec.classes
        assert names is not None
        assert len(set(names)) == module.spec.num_classes
        assert [name.replace(" ", "_") for name in names] == sorted(name.replace(" ", "_") for name in names)
    assert CIFAR100FirstHalfDataModule.spec.classes + CIFAR100SecondHalfDataModule.spec.classes == (  # type: ignore[operator]
        CIFAR100DataModule.spec.classes
    )


def test_cifar10_std_is_the_root_mean_square_of_the_published_ones() -> None:
    published = np.array([0.2470, 0.2435, 0.2616])
    assert CIFAR10DataModule.spec.std == pytest.approx(np.linalg.norm(published) / np.sqrt(3), abs=5e-5)


PUBLISHED = {SVHNDataModule: (0.1980, 0.2010, 0.1970), TinyImageNetDataModule: (0.2770, 0.2691, 0.2821)}


@pytest.mark.parametrize("module", PUBLISHED, ids=lambda module: module.spec.name)
def test_stds_are_the_root_mean_squares_of_the_published_ones(module: type[ImageDataModule]) -> None:
    assert module.spec.std == pytest.approx(np.linalg.norm(PUBLISHED[module]) / np.sqrt(3), abs=5e-5)


def test_as_many_names_as_classes() -> None:
    with pytest.raises(ValueError, match=r"classes must have 10 names, got \('one',\)"):
        DatasetSpec("some", 10, in_channels=1, image_size=8, mean=(0.5,), std=0.25, classes=("one",))


def test_as_many_means_as_channels() -> None:
    with pytest.raises(ValueError, match=r"mean must have 3 values, one per channel, got \(0.5, 0.5\)"):
        DatasetSpec("some", num_classes=10, in_channels=3, image_size=8, mean=(0.5, 0.5), std=0.25)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_std_is_positive(std: float) -> None:
    with pytest.raises(ValueError, match=f"std must be positive, got {std}"):
        DatasetSpec("some", num_classes=10, in_channels=1, image_size=8, mean=(0.5,), std=std)
