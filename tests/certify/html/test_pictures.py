"""Sprite sheets hold the images in order, within their budget."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lipnet.certify.attacks.result import AttackResult
from lipnet.certify.html.pictures import COLUMNS, PER_SHEET, AttackedImages, Sprites, sprite_sheets
from tests.certify.html.synthetic import make_images


def tile(sprites: Sprites, index: int) -> np.ndarray:
    """The pixels of an image, as the report's script finds them."""
    sheet = np.asarray(Image.open(BytesIO(sprites.sheets[index // PER_SHEET])))
    row, column = divmod(index % PER_SHEET, COLUMNS)
    x, y = column * sprites.pitch[0], row * sprites.pitch[1]
    return sheet[y : y + sprites.height, x : x + sprites.width]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_that_fit_are_lossless_and_in_order(channels: int) -> None:
    images = make_images(2_100, side=6, channels=channels)
    sprites = sprite_sheets(images.split(500), budget=10**7)
    assert (len(sprites.sheets), sprites.media_type, sprites.note) == (3, "image/png", "")
    shown = images[:, :3] if channels >= 3 else images[:, :1]
    expected = (255 * shown).round().byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    for index in (0, 31, 32, 1023, 1024, 2099):
        assert np.array_equal(tile(sprites, index), expected[index])


def test_images_of_another_shape_keep_it() -> None:
    images = torch.rand(3, 3, 5, 9)
    sprites = sprite_sheets([images], budget=10**6)
    assert (sprites.width, sprites.height) == (9, 5)
    assert np.array_equal(tile(sprites, 2), (255 * images[2]).round().byte().permute(1, 2, 0).numpy())


def test_a_smaller_budget_compresses_and_then_reduces() -> None:
    images = make_images(64, side=32)
    lossless = sprite_sheets([images], budget=10**7)
    for budget, note in ((100_000, "compressed as JPEG"), (8_000, "reduced from 32 x 32 to")):
        sprites = sprite_sheets([images], budget)
        assert sum(map(len, sprites.sheets)) <= budget
        assert note in sprites.note
        error = np.abs(_enlarged(tile(sprites, 40)) - tile(lossless, 40).astype(float)).mean()
        assert error < 25


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(float)


def test_jpeg_tiles_do_not_bleed_into_each_other() -> None:
    images = torch.zeros(2, 3, 20, 20)
    images[1] = 1
    noise = torch.rand(300, 3, 20, 20)
    sprites = sprite_sheets([images, noise], budget=sum(map(len, sprite_sheets([noise], 10**7).sheets)) // 2)
    assert sprites.media_type == "image/jpeg"
    assert tile(sprites, 0).max() <= 2
    assert tile(sprites, 1).min() >= 253


def test_large_images_are_reduced() -> None:
    sprites = sprite_sheets([make_images(2, side=300)], budget=10**6, largest=100)
    assert (sprites.width, sprites.height, sprites.note) == (100, 100, "reduced from 300 x 300 to 100 x 100 pixels")


def test_no_images_and_an_impossible_budget_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one image"):
        sprite_sheets([], budget=1000)
    with pytest.raises(ValueError, match="100 images do not fit into 50 bytes"):
        sprite_sheets([torch.rand(100, 3, 16, 16)], budget=50)


def test_an_attack_keeps_its_first_thousand_images() -> None:
    attacked = AttackedImages()
    for _ in range(3):
        attacked.add(make_images(400), result_of(make_images(400)))
    assert (
        len(attacked.distance) == len(attacked.prediction) == sum(len(images) for images, _ in attacked.pairs) == 1000
    )


def result_of(nearest: Tensor) -> AttackResult:
    count = len(nearest)
    certificates: object = None
    return AttackResult(certificates, torch.ones(count), 0, nearest, torch.zeros(count, dtype=torch.int64))  # type: ignore[arg-type]
