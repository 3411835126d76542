"""Tests of lipnet.data.images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lipnet.data import ImageDataset, LabelledImages
from lipnet.data.augmentation import CropAndFlip, SeededAugmentation
from lipnet.data.images import to_unit_range


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
    dataset = ImageDataset(source, torch.tensor([1, 0]), [CropAndFlip(seed=0, padding=2, flip=True)])
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


AUGMENTATIONS = [CropAndFlip(seed=0, padding=2, flip=True), SeededAugmentation(v2.ColorJitter(0.5, 0.5), seed=0)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_batch_is_its_items_one_by_one(count: int) -> None:
    source = make_source()
    dataset = ImageDataset(source, torch.tensor([4, 0, 3, 5]), AUGMENTATIONS[:count])
    items = [(0, 2), (3, 0), 1, (7, 3), (7, 2)]
    images, labels = dataset.batch(items)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    for i, (item, fetched) in enumerate(zip(items, dataset.__getitems__(items), strict=True)):
        alone = dataset[item]
        assert torch.equal(images[i], alone[0])
        assert labels[i] == alone[1]
        assert torch.equal(fetched[0], alone[0])
        assert fetched[1] == alone[1]
        assert type(fetched[1]) is int


def test_augmentation_follows_the_image_whatever_its_place_in_the_dataset() -> None:
    source = make_source()
    forwards = ImageDataset(source, torch.arange(6), AUGMENTATIONS)
    backwards = ImageDataset(source, torch.arange(5, -1, -1), AUGMENTATIONS)
    for i in range(6):
        assert torch.equal(forwards[4, i][0], backwards[4, 5 - i][0])


def test_moving_takes_the_served_images_along() -> None:
    dataset = ImageDataset(make_source(), torch.tensor([4, 0, 3]), AUGMENTATIONS)
    assert dataset.to(torch.device("cpu")) is dataset
    moved = dataset.to(torch.device("meta"))
    assert moved.source.images.device.type == moved.source.labels.device.type == "meta"
    assert moved.source.images.shape == (3, 3, 8, 8)
    assert moved.indices.tolist() == dataset.indices.tolist() == [104, 100, 103]
    assert moved.augmentations == dataset.augmentations


def test_joined_images_come_after_the_others() -> None:
    first, second = make_source(4), make_source(2)
    joined = first.joined(second)
    assert torch.equal(joined.images, torch.cat([first.images, second.images]))
    assert joined.labels.tolist() == first.labels.tolist() + second.labels.tolist()
    assert joined.indices.tolist() == first.indices.tolist() + second.indices.tolist()
    assert joined.maximum == 255


def test_images_of_another_shape_or_range_cannot_be_joined() -> None:
    integers = torch.arange(2)
    smaller = LabelledImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), integers, integers, maximum=255)
    darker = LabelledImages(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), integers, integers, maximum=16)
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) cannot be joined by images of shape \(3, 4, 4\)"):
        make_source().joined(smaller)
    with pytest.raises(ValueError, match=r"extra images are bytes 0\.\.16, but the training images are 0\.\.255"):
        make_source().joined(darker)


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
