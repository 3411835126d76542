"""Tests of lipnet.data.augmentation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from lipnet.data.augmentation import CropAndFlip, SeededAugmentation, derive_seed

CROP_AND_FLIP = v2.Compose([v2.RandomCrop(8, padding=2), v2.RandomHorizontalFlip()])


def make_images(length: int = 6, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (length, 3, height, width), dtype=torch.uint8, generator=generator)


def make_image() -> Tensor:
    return make_images(1)[0]


def views_of(image: Tensor, padding: int) -> dict[tuple[int, int, bool], Tensor]:
    """All images that a crop after zero padding, then a flip or none, can make of one."""
    height, width = image.shape[1:]
    padded = torch.nn.functional.pad(image, [padding] * 4)
    shifts = range(2 * padding + 1)
    crops = {
        (row, column): padded[:, row : row + height, column : column + width] for row in shifts for column in shifts
    }
    return {(*shift, flip): crop.flip(-1) if flip else crop for shift, crop in crops.items() for flip in (False, True)}


def which(view: Tensor, image: Tensor, padding: int) -> tuple[int, int, bool]:
    (found,) = [key for key, other in views_of(image, padding).items() if torch.equal(view, other)]
    return found


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_each_view_is_a_crop_and_a_flip(padding: int, size: tuple[int, int]) -> None:
    images = make_images(40, *size)
    views = CropAndFlip(0, padding, flip=True).augment(images, np.full(40, 3), np.arange(40))
    assert views.dtype == torch.uint8
    found = [which(view, image, padding) for view, image in zip(views, images, strict=True)]
    assert {flip for _, _, flip in found} == {False, True}
    assert len({(row, column) for row, column, _ in found}) >= min(9, (2 * padding + 1) ** 2) // 2


def test_every_view_is_as_likely_as_any_other() -> None:
    images, count = make_images(1).expand(25_000, -1, -1, -1), 25_000
    views = CropAndFlip(5, 2, flip=True).augment(images, np.zeros(count, dtype=int), np.arange(count))
    hits = np.array([int((views == view).flatten(1).all(dim=1).sum()) for view in views_of(make_image(), 2).values()])
    assert hits.sum() == count
    # 49 degrees of freedom: chi-squared beyond 85.4 has probability 0.001.
    assert ((hits - count / 50) ** 2 / (count / 50)).sum() < 85.4


def test_without_padding_or_flip_nothing_changes() -> None:
    images = make_images(20)
    epochs, indices = np.zeros(20, dtype=int), np.arange(20)
    assert torch.equal(CropAndFlip(0, 0, flip=False).augment(images, epochs, indices), images)
    found = [
        which(view, image, 1)
        for view, image in zip(CropAndFlip(0, 1, flip=False).augment(images, epochs, indices), images, strict=True)
    ]
    assert not any(flip for _, _, flip in found)


@pytest.mark.parametrize("make", [lambda: CropAndFlip(3, 2, flip=True), lambda: SeededAugmentation(CROP_AND_FLIP, 3)])
def test_a_batch_is_its_images_one_by_one(make: object) -> None:
    augmentation, images = make(), make_images(30)  # type: ignore[operator]
    epochs, indices = np.arange(30) % 4, 7 * np.arange(30)
    together = augmentation.augment(images, epochs, indices)
    for i in range(30):
        alone = augmentation.augment(images[i : i + 1], epochs[i : i + 1], indices[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)
    order = np.random.default_rng(0).permutation(30)
    assert torch.equal(augmentation.augment(images[order], epochs[order], indices[order]), together[order])


def test_crops_depend_on_seed_epoch_and_index() -> None:
    images = make_images(1).expand(40, -1, -1, -1)
    same, counting = np.zeros(40, dtype=int), np.arange(40)
    for epochs, indices in ((same, counting), (counting, same)):
        views = CropAndFlip(0, 2, flip=True).augment(images, epochs, indices)
        assert len({view.numpy().tobytes() for view in views}) > 15
    seeds = {
        CropAndFlip(seed, 2, flip=True).augment(images[:1], same[:1], same[:1]).numpy().tobytes() for seed in range(40)
    }
    assert len(seeds) > 15


def test_negative_padding() -> None:
    with pytest.raises(ValueError, match="padding must be non-negative, got -1"):
        CropAndFlip(0, -1, flip=True)


def test_augmentation_is_a_function_of_seed_epoch_and_index_alone() -> None:
    image = make_image()
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


def test_augmentation_leaves_every_global_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"an accelerator was reseeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    augmentation = SeededAugmentation(CROP_AND_FLIP, seed=0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    augmentation(make_image(), epoch=0, index=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_seeds_of_neighbouring_triples_differ() -> None:
    triples = [(seed, epoch, index) for seed in range(6) for epoch in range(6) for index in range(6)]
    seeds = [derive_seed(*triple) for triple in triples]
    assert len(set(seeds)) == len(triples)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_an_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    count = 200
    images = torch.arange(8, dtype=torch.uint8).view(1, 1, 2, 4).expand(count, -1, -1, -1)
    augmentation, indices = CropAndFlip(3, 0, flip="alternating"), np.arange(count)
    flipped = [
        (augmentation.augment(images, np.full(count, epoch), indices) != images).flatten(1).any(dim=1)
        for epoch in range(4)
    ]
    assert torch.equal(flipped[0], ~flipped[1])
    assert torch.equal(flipped[0], flipped[2])
    assert torch.equal(flipped[1], flipped[3])
    assert 70 < int(flipped[0].sum()) < 130, "each image has a coin of its own"
    alone = augmentation.augment(images[:1], np.array([1]), np.array([17]))
    assert torch.equal((alone != images[:1]).any(), flipped[1][17])


def test_the_alternating_flip_does_not_depend_on_the_crop() -> None:
    """The flip of epoch 0 was a function of its row until the coin got a draw of its own."""
    count = 3000
    images = (10 * torch.arange(3).view(3, 1) + torch.arange(1, 6)).to(torch.uint8).expand(count, 1, 3, 5)
    augmented = CropAndFlip(0, 1, flip="alternating").augment(images, np.zeros(count, np.int64), np.arange(count))
    middle = augmented[:, 0, 1]
    row, flipped = middle[:, 2] // 10, middle[:, 1] > middle[:, 2]
    for shift in range(3):
        share = flipped[row == shift].double().mean().item()
        assert share == pytest.approx(0.5, abs=0.08), "five standard deviations of 1,000 coins"


def test_an_unknown_flip_is_refused() -> None:
    with pytest.raises(ValueError, match="flip must be true, false or 'alternating', got 'sometimes'"):
        CropAndFlip(0, 0, flip="sometimes")
