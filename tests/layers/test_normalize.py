"""The normalisation of pixels."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch

from lipnet.layers import Normalize
from tests.oracles import dense_jacobian, spectral_norm


def test_values() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    y = Normalize((0.5, 0.25, 0.75), 0.125)(x)
    for channel, mean in enumerate((0.5, 0.25, 0.75)):
        assert torch.equal(y[:, channel], (x[:, channel] - mean) * 8)


@pytest.mark.parametrize("std", [0.25, 0.2673, 1 / 3, 1.0, 3.0, 1e-3])
def test_the_bound_is_the_reciprocal_of_the_std_that_is_used(std: float) -> None:
    layer = Normalize((0.1, 0.2), std)
    used = Fraction(float(torch.tensor(std, dtype=torch.float32)))
    bound = layer.lipschitz_bound()
    assert Fraction(bound) >= 1 / used
    assert Fraction(math.nextafter(bound, 0)) < 1 / used
    norm = spectral_norm(dense_jacobian(layer, torch.zeros(1, 2, 2, 2, dtype=torch.float64)))
    assert norm == pytest.approx(bound, rel=1e-15)


def test_it_is_the_same_function_in_both_precisions() -> None:
    single, double = Normalize((0.4914,), 0.2673), Normalize((0.4914,), 0.2673).double()
    x = torch.zeros(1, 1, 1, 1)
    assert single.std == double.std
    assert torch.equal(single.mean.double(), double.mean)
    assert double(x.double()).item() == -float(torch.tensor(0.4914)) / float(torch.tensor(0.2673))


def test_constants_are_no_state() -> None:
    assert Normalize((0.5,), 0.5).state_dict() == {}
    assert repr(Normalize((0.5,), 0.25)) == "Normalize(mean=[0.5], std=0.2500)"


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5,), 0.0), ((0.5,), -1.0), ((0.5,), math.nan), ((0.5,), math.inf), ((0.5, math.nan), 1.0), ((math.inf,), 1.0)],
)
def test_unusable_constants_are_refused(mean: tuple[float, ...], std: float) -> None:
    with pytest.raises(ValueError, match=rf"needs finite means and one finite std > 0, got \[.*\], {std}"):
        Normalize(mean, std)


@pytest.mark.parametrize("std", [(0.2, 0.2, 0.2), [0.25], torch.full((3,), 0.2)])
def test_a_std_for_each_channel_is_refused_saying_why(std: Any) -> None:
    message = rf"std must be one number for all channels, got {re.escape(repr(std))}: .* 1 / min\(std\)"
    with pytest.raises(ValueError, match=message):
        Normalize((0.5,) * 3, std)


@pytest.mark.parametrize("image_size", [0, -8, math.nan, math.inf, 8.5])
def test_an_image_size_that_is_no_positive_integer_is_refused(image_size: Any) -> None:
    with pytest.raises(ValueError, match=f"image_size must be None or an integer of at least 1, got {image_size}"):
        Normalize((0.5,) * 3, 0.5, image_size)


@pytest.mark.parametrize("std", [1e-60, 1e60])
def test_a_std_beyond_float32_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="std"):
        Normalize((0.5,), std)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 3, 8), (1, 4, 8, 8), (1, 3, 8, 7), (1, 3, 32, 32)])
def test_images_of_another_shape_are_refused_saying_what_is_needed(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"images must have shape \(B, 3, 8, 8\), got \({received}\)"):
        Normalize((0.5,) * 3, 0.5, image_size=8)(torch.zeros(shape))


def test_without_an_image_size_every_size_is_taken() -> None:
    layer = Normalize((0.5,) * 3, 0.5)
    assert layer(torch.zeros(2, 3, 5, 7)).shape == (2, 3, 5, 7)
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, H, W\), got \(2, 1, 5, 7\)"):
        layer(torch.zeros(2, 1, 5, 7))
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, H, W\), got \(3, 5, 7\)"):
        layer(torch.zeros(3, 5, 7))
