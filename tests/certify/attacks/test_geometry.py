"""The projection onto ball and box against a general algorithm, and distances against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.certify.attacks.geometry import distances_up, project, unit


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def nearest(image: np.ndarray, offset: np.ndarray, epsilon: float) -> np.ndarray:
    """The point of ball and box that is nearest to an offset, by alternating projections (Dykstra's algorithm)."""
    point, of_ball, of_box = offset.copy(), np.zeros_like(offset), np.zeros_like(offset)
    for _ in range(20_000):
        moved = point + of_ball
        in_ball = moved * min(1, epsilon / np.linalg.norm(moved))
        of_ball = moved - in_ball
        point = np.clip(in_ball + of_box, -image, 1 - image)
        of_box += in_ball - point
    return point


@pytest.mark.cover(0)
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 3.0])
def test_the_projection_is_the_nearest_point_of_ball_and_box(epsilon: float) -> None:
    images, offsets = pixels(4, 1, 2, 3), noise(4, 1, 2, 3)
    projected = project(images, offsets, torch.full((4,), epsilon, dtype=torch.float64))
    for image, offset, result in zip(images, offsets, projected, strict=True):
        expected = nearest(image.flatten().numpy(), offset.flatten().numpy(), epsilon)
        np.testing.assert_allclose(result.flatten().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_the_projection_stays_inside(scale: float, dtype: torch.dtype) -> None:
    images, offsets = pixels(20, 3, 4, 4).to(dtype), scale * noise(20, 3, 4, 4).to(dtype)
    epsilon = torch.linspace(0, 2, 20).to(dtype)
    projected = project(images, offsets, epsilon)
    assert (projected.flatten(1).norm(dim=1) <= epsilon * (1 + 1e-6)).all()
    # The sum may be rounded up by half a unit in the last place of 1.
    assert -1e-7 <= (images + projected).min() <= (images + projected).max() <= 1 + 1e-7


def test_what_is_inside_stays_where_it_is() -> None:
    images, offsets = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 0.1)
    assert project(images, offsets, torch.tensor([0.2])).equal(offsets)


def test_unit_vectors_of_what_has_a_direction() -> None:
    offsets = torch.stack([torch.full((1, 2, 2), 3.0), torch.zeros(1, 2, 2), torch.full((1, 2, 2), float("nan"))])
    assert unit(offsets).flatten(1).tolist() == [[0.5] * 4, [0.0] * 4, [0.0] * 4]


def test_distances_are_never_below_the_exact_ones() -> None:
    images, others = pixels(50, 3, 5, 5), pixels(50, 3, 5, 5) + 1e-3 * noise(50, 3, 5, 5)
    for image, other, distance in zip(images, others, distances_up(images, others).tolist(), strict=True):
        pairs = zip(image.flatten().tolist(), other.flatten().tolist(), strict=True)
        exact = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs)
        assert exact <= Fraction(distance) ** 2 <= exact * Fraction(1 + 1e-12)


def test_distances_too_small_to_be_squared_are_not_zero() -> None:
    image = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    assert distances_up(image, image + 1e-200) >= 1e-200
