"""Tests of lipnet.data.images."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lipnet.data import ImageDataset, LabelledImages, SeededAugmentation
from lipnet.data.images import augmentation_seed, to_unit_range

CROP_AND_FLIP = v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip()])


def make_source(length: int = 6) -> LabelledImages:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (length, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return LabelledImages(images, torch.arange(length) % 3, 100 + torch.arange(length), maximum=255)


def crops_and_flips(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """All images that a crop after zero padding, then a flip or none, can make of one."""
    size = image.shape[-1]
    padded = torch.zeros(image.shape[0], size + 2 * padding, size + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + size, padding : padding + size] = image
    shifts = range(2 * padding + 1)
    crops = [padded[:, row : row + size, column : column + size] for row in shifts for column in shifts]
    return [view for crop in crops for view in (crop, crop.flip(-1))]


@pytest.mark.parametrize("maximum", [255, 16])
def test_unit_range_is_the_rounded_quotient(maximum: int) -> None:
    values = torch.arange(maximum + 1, dtype=torch.uint8)
    expected = (np.arange(maximum + 1, dtype=np.float64) / maximum).astype(np.float32)
    result = to_unit_range(values, maximum)
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result.numpy(), expected)


def test_dataset_serves_the_chosen_positions_in_order() -> None:
    source = make_source()
    dataset = ImageDataset(source, torch.tensor([4, 0, 3]))
    assert len(dataset) == 3
    assert dataset.indices.tolist() == [104, 100, 103]
    for i, position in enumerate([4, 0, 3]):
        for item in (i, (7, i)):
            image, label = dataset[item]
            assert type(label) is int
            assert label == position % 3
            assert torch.equal(image, source.images[position].float() / 255)


def test_augmented_images_are_crops_and_flips_of_the_right_image() -> None:
    source = make_source(2)
    dataset = ImageDataset(source, torch.tensor([1, 0]), SeededAugmentation(CROP_AND_FLIP, seed=0))
    possible = [crops_and_flips(image, padding=2) for image in source.images.float() / 255]
    seen: list[set[int]] = [set(), set()]
    for epoch in range(300):
        for i, position in enumerate([1, 0]):
            image, label = dataset[epoch, i]
            assert label == position
            matches = [number for number, view in enumerate(possible[position]) if torch.equal(view, image)]
            assert len(matches) == 1
            seen[position].add(matches[0])
    # 300 draws miss 2.5 of the 50 views on average, and 10 of them practically never.
    assert min(len(numbers) for numbers in seen) > 40


def test_augmentation_is_a_function_of_seed_epoch_and_index_alone() -> None:
    image = make_source().images[0]
    augmentation = SeededAugmentation(CROP_AND_FLIP, seed=3)
    expected = augmentation(image, epoch=2, index=9)
    for global_seed in range(5):
        torch.manual_seed(global_seed)
        assert torch.equal(augmentation(image, epoch=2, index=9), expected)

    def views(seed: int, epochs: range, indices: range) -> set[bytes]:
        chosen = SeededAugmentation(CROP_AND_FLIP, seed)
        return {chosen(image, epoch, index).numpy().tobytes() for epoch in epochs for index in indices}

    assert len(views(3, range(40), range(1))) > 15
    assert len(views(3, range(1), range(40))) > 15
    assert len(set().union(*(views(seed, range(1), range(1)) for seed in range(40)))) > 15


def test_augmentation_follows_the_image_whatever_its_place_in_the_dataset() -> None:
    source = make_source()
    augmentation = SeededAugmentation(CROP_AND_FLIP, seed=0)
    forwards = ImageDataset(source, torch.arange(6), augmentation)
    backwards = ImageDataset(source, torch.arange(5, -1, -1), augmentation)
    for i in range(6):
        assert torch.equal(forwards[4, i][0], backwards[4, 5 - i][0])


def test_augmentation_leaves_every_global_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"an accelerator was reseeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    augmentation = SeededAugmentation(CROP_AND_FLIP, seed=0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    augmentation(make_source().images[0], epoch=0, index=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_seeds_of_neighbouring_triples_differ() -> None:
    triples = [(seed, epoch, index) for seed in range(6) for epoch in range(6) for index in range(6)]
    seeds = [augmentation_seed(*triple) for triple in triples]
    assert len(set(seeds)) == len(triples)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_images_of_another_kind() -> None:
    integers = torch.arange(2)
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(N, C, H, W\), got torch.float32"):
        LabelledImages(torch.zeros(2, 1, 8, 8), integers, integers, maximum=255)
    with pytest.raises(ValueError, match=r"images must be uint8 .* of shape \(2, 8, 8\)"):
        LabelledImages(torch.zeros(2, 8, 8, dtype=torch.uint8), integers, integers, maximum=255)


@pytest.mark.parametrize("wrong", [torch.arange(3), torch.zeros(2)])
def test_labels_or_indices_of_another_kind(wrong: torch.Tensor) -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"labels must be int64 of shape \(2,\), got"):
        LabelledImages(images, wrong, torch.arange(2), maximum=255)
    with pytest.raises(ValueError, match=r"indices must be int64 of shape \(2,\), got"):
        LabelledImages(images, torch.arange(2), wrong, maximum=255)
