"""Mixing of batches by torchvision's MixUp and CutMix, seeded by the place of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from lipnet.data import DigitsDataModule
from lipnet.data.augmentation import Mixing, seeded_mix

KINDS = [MixUp, CutMix]
LABELS = torch.tensor([2, 0, 1, 1, 4, 3])


def make_images(height: int = 12, width: int = 12) -> Tensor:
    """Image i has the value i + 1 everywhere."""
    return torch.arange(1.0, 7.0).view(6, 1, 1, 1).expand(6, 3, height, width).contiguous()


def mix(kind: type[Mixing], *key: int, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    return seeded_mix(kind(alpha=alpha), (make_images(), LABELS), 5, (*key, 0, 0, 0, 0)[:4])


@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_labels_have_the_shares_of_the_pixels(kind: type[Mixing], number: int) -> None:
    images, labels = mix(kind, 0, 0, 0, number)
    assert images.shape == (6, 3, 12, 12)
    assert labels.dtype == torch.float32
    assert labels.shape == (6, 5)
    before = make_images().roll(1, 0)
    share = ((images - before) / (make_images() - before)).mean(dim=(1, 2, 3))
    assert share.min() >= 0
    assert share.max() <= 1
    torch.testing.assert_close(share, share[:1].expand(6), rtol=0, atol=1e-6)
    expected = torch.zeros(6, 5)
    for i, label in enumerate(LABELS.tolist()):
        expected[i, label] += share[0]
        expected[i, LABELS[i - 1]] += 1 - share[0]
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))


def test_mixup_mixes_every_pixel_alike() -> None:
    images = mix(MixUp)[0]
    assert (images == images[:, :1, :1, :1]).all()


@pytest.mark.parametrize("number", range(20))
def test_cutmix_pastes_a_rectangle(number: int) -> None:
    images, labels = mix(CutMix, 0, 0, 0, number)
    pasted = images[1, 0] == 1.0
    rows, columns = pasted.any(dim=1), pasted.any(dim=0)
    assert torch.equal(pasted, rows[:, None] & columns)
    for side in (rows, columns):
        assert side.int().diff().abs().sum() <= 2, "pasted rows and columns are in one piece"
    assert labels[1, 2].item() == pytest.approx(pasted.double().mean().item(), abs=1e-6)


def test_sizes_and_places_of_rectangles_vary() -> None:
    shares, corners = set(), set()
    for number in range(60):
        images, labels = mix(CutMix, 0, 0, 0, number)
        shares.add(round(labels[1, 2].item(), 4))
        corners.add(bool(images[1, 0, 0, 0] == 1.0))
    assert len(shares) > 15
    assert corners == {False, True}


@pytest.mark.cover(0)
@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_have_the_moments_of_their_distribution(alpha: float) -> None:
    shares = np.array([mix(MixUp, 0, 0, 0, number, alpha=alpha)[1][1, 0].item() for number in range(3000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4.5 * np.sqrt(variance / 3000)
    assert shares.var() == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_a_function_of_the_key(kind: type[Mixing]) -> None:
    first = mix(kind, 1, 2, 3, 4)
    torch.manual_seed(5)
    np.random.seed(5)
    state = torch.get_rng_state()
    again = mix(kind, 1, 2, 3, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(one.equal(other) for one, other in zip(first, again, strict=True))
    for key in ((0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)):
        assert not torch.equal(mix(kind, *key)[0], first[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_is_not_changed(kind: type[Mixing]) -> None:
    images, labels = make_images(), LABELS.clone()
    seeded_mix(kind(), (images, labels), 5, (0, 0, 0, 0))
    assert torch.equal(images, make_images())
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_image_is_mixed_with_itself(kind: type[Mixing]) -> None:
    images, labels = seeded_mix(kind(), (make_images()[:1], LABELS[:1]), 5, (0, 0, 0, 0))
    torch.testing.assert_close(images, make_images()[:1])
    torch.testing.assert_close(labels, torch.eye(5)[LABELS[:1]])


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_out_of_range(kind: type[Mixing], alpha: float) -> None:
    # torch.distributions refuses all but infinity itself, until torch.compile switches its checks off.
    with pytest.raises(ValueError, match=r"alpha must be positive and finite, got|concentration"):
        DigitsDataModule(mixing=kind(alpha=alpha))
