"""The other tasks on CIFAR-100's images, on files of the official layout with random images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from lipnet.data import (
    DATAMODULES,
    CIFAR100CoarseDataModule,
    CIFAR100DataModule,
    CIFAR100FirstHalfDataModule,
    CIFAR100SecondHalfDataModule,
)

WriteFakeCIFAR = Callable[[type[datasets.CIFAR10]], Any]


def test_coarse_labels_are_those_of_the_file(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    module = CIFAR100CoarseDataModule(data_dir=files.root, validation_fraction=0.2, augment=False)
    for dataset, labels in (
        (module.training_dataset(), files.training_labels),
        (module.evaluation_dataset("test"), files.test_labels),
    ):
        served = [label for _, label in dataset]
        assert served == (labels[dataset.indices.numpy()] % 20).tolist()
    assert module.spec.num_classes == 20


def test_the_coarse_validation_images_are_the_fine_ones(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    for seed in (0, 1):
        coarse = CIFAR100CoarseDataModule(data_dir=files.root, seed=seed).evaluation_indices("validation")
        fine = CIFAR100DataModule(data_dir=files.root, seed=seed).evaluation_indices("validation")
        assert torch.equal(coarse, fine)


@pytest.mark.parametrize(
    ("module_class", "first"), [(CIFAR100FirstHalfDataModule, 0), (CIFAR100SecondHalfDataModule, 50)]
)
def test_a_half_has_the_images_of_its_classes(
    module_class: type[CIFAR100FirstHalfDataModule], first: int, write_fake_cifar: WriteFakeCIFAR
) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    module = module_class(data_dir=files.root)
    expected = np.flatnonzero((files.test_labels >= first) & (files.test_labels < first + 50))
    assert module.evaluation_indices("test").tolist() == expected.tolist()
    for i, (image, label) in enumerate(module.evaluation_dataset("test")):
        assert label == files.test_labels[expected[i]] - first
        np.testing.assert_array_equal(image.numpy(), (files.test_images[expected[i]] / 255).astype(np.float32))
    training, validation = module.training_dataset().indices, module.evaluation_indices("validation")
    chosen = np.flatnonzero((files.training_labels >= first) & (files.training_labels < first + 50))
    assert torch.cat([training, validation]).sort().values.tolist() == chosen.tolist()
    assert np.bincount(files.training_labels[validation.numpy()] - first).tolist() == [1] * 50


def test_checkpoints_find_them_by_name() -> None:
    for name in ("cifar100_coarse", "cifar100_first_half", "cifar100_second_half"):
        assert DATAMODULES[name].spec.name == name


def test_which_tasks_share_images_in_another_split(tmp_path: Path) -> None:
    names = ("cifar100", "cifar100_coarse", "cifar100_first_half", "cifar100_second_half", "cifar10")
    tasks = {name: DATAMODULES[name](data_dir=tmp_path) for name in names}
    seeing = {
        (base, name)
        for base, other in tasks.items()
        for name, data in tasks.items()
        if not data.unseen_by(other.description())
    }
    whole, halves = names[:2], names[2:4]
    assert seeing == {pair for one in whole for half in halves for pair in ((one, half), (half, one))}
    others = {name: DATAMODULES[name](data_dir=tmp_path, seed=1).description() for name in names}
    assert not tasks["cifar100"].unseen_by(others["cifar100_coarse"])
    assert not tasks["cifar100_coarse"].unseen_by(others["cifar100"])
    assert not tasks["cifar100_first_half"].unseen_by(others["cifar100_first_half"])
    assert tasks["cifar100_first_half"].unseen_by(others["cifar100_second_half"])
