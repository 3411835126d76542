"""Tests of lipnet.data.digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lipnet.data import DigitsDataModule, NpzImages


def test_splits_are_disjoint_and_together_all_of_the_digits() -> None:
    module = DigitsDataModule()
    parts = [module.training_dataset().indices, *map(module.evaluation_indices, ("validation", "test"))]
    assert [len(part) for part in parts] == [1295, 143, 359]
    assert torch.cat(parts).sort().values.tolist() == list(range(1797))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_indices_are_those_of_the_official_digits(split: str) -> None:
    module = DigitsDataModule(seed=2)
    digits = load_digits()
    dataset = module.evaluation_dataset(split)
    for (image, label), index in zip(dataset, module.evaluation_indices(split).tolist(), strict=False):
        assert label == digits.target[index]
        np.testing.assert_array_equal(image.numpy(), digits.images[index][np.newaxis] / 16)


def test_splits_are_stratified() -> None:
    digits = load_digits()
    module = DigitsDataModule()
    per_class = np.bincount(digits.target)
    in_test = np.bincount(digits.target[module.evaluation_indices("test").numpy()])
    np.testing.assert_allclose(in_test, 0.2 * per_class, atol=0.5)
    in_validation = np.bincount(digits.target[module.evaluation_indices("validation").numpy()])
    np.testing.assert_allclose(in_validation, 0.1 * (per_class - in_test), atol=0.5)


def test_seed_moves_the_validation_images_but_not_the_test_images() -> None:
    first, second = DigitsDataModule(seed=0), DigitsDataModule(seed=1)
    assert torch.equal(first.evaluation_indices("test"), second.evaluation_indices("test"))
    assert not torch.equal(first.evaluation_indices("validation"), second.evaluation_indices("validation"))


def test_spec_is_what_the_training_images_measure() -> None:
    module = DigitsDataModule(augment=False)
    spec = module.spec
    images = torch.stack(
        [image for part in (module.training_dataset(), module.evaluation_dataset("validation")) for image, _ in part]
    ).double()
    assert images.shape == (1438, spec.in_channels, spec.image_size, spec.image_size)
    assert spec.mean == pytest.approx(images.mean(dim=(0, 2, 3)).tolist(), abs=5e-5)
    assert spec.std == pytest.approx(images.std(correction=0).item(), abs=5e-5)


def test_augmentation_shifts_by_one_pixel_at_most_and_never_flips() -> None:
    module = DigitsDataModule()
    augmented = module.training_dataset()
    original = DigitsDataModule(augment=False).training_dataset()
    shifts = set()
    for i in range(60):
        image, padded = augmented[0, i][0], torch.nn.functional.pad(original[i][0], (1, 1, 1, 1))
        windows = {
            (row, column): padded[:, row : row + 8, column : column + 8] for row in range(3) for column in range(3)
        }
        matches = [shift for shift, window in windows.items() if torch.equal(window, image)]
        assert matches
        shifts.add(matches[0])
    assert len(shifts) > 5


def test_extra_images_have_another_range_than_digits(tmp_path: Path) -> None:
    np.savez(tmp_path / "extra.npz", image=np.zeros((4, 8, 8, 1), np.uint8), label=np.zeros(4, np.int64))
    module = DigitsDataModule(extra=NpzImages(tmp_path / "extra.npz", 0.5), loader="memory")
    with pytest.raises(ValueError, match=r"extra images are bytes 0\.\.255, but the training images are 0\.\.16: this"):
        module.training_dataset()
