"""Householder maps of the plane in polar coordinates, and their Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional.householder import fold, fold_sectors, four_sectors

THETAS = [
    (0.0, np.pi, np.pi),
    (0.3, 0.9, 2.2),
    (5.0, 5.5, 0.4),
    (-2.0, 0.1, 6.1),
    (9.0, 4.0, 4.0),
    (1.0, 0.0, 0.0),
    (1.0, 2 * np.pi, 1.0),
    (1.0, 2 * np.pi, 2 * np.pi),
    (1.0, -3.0, 8.0),
]


def points(count: int = 2000, seed: int = 0) -> Tensor:
    return torch.randn(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mapped_angle(phi: np.ndarray, theta: tuple[float, float, float]) -> np.ndarray:
    """Return the mapped angle by the definition, with phi measured from theta_0 / 2."""
    a, b = (float(np.clip(angle, 0, 2 * np.pi)) / 2 for angle in theta[1:])
    phi = phi % (2 * np.pi)
    pieces = [phi < a, phi < a + b, phi < np.pi + b]
    return np.select(pieces, [phi, 2 * a - phi, phi - 2 * b], -phi)


@pytest.mark.parametrize("theta", THETAS)
def test_order_two_moves_angles_as_defined(theta: tuple[float, float, float]) -> None:
    x, y = points()
    images = torch.stack(fold_sectors(x, y, torch.tensor(theta, dtype=torch.float64))).numpy()
    radius, start = np.hypot(x.numpy(), y.numpy()), theta[0] / 2
    angle = mapped_angle(np.arctan2(y.numpy(), x.numpy()) - start, theta) + start
    np.testing.assert_allclose(images, radius * np.stack([np.cos(angle), np.sin(angle)]), atol=1e-13)


@pytest.mark.parametrize("theta", THETAS)
def test_order_two_never_moves_points_apart(theta: tuple[float, float, float]) -> None:
    tensor = torch.tensor(theta, dtype=torch.float64)
    near = points(seed=1)
    for step in (1.0, 1e-3, 1e-8):
        other = near + step * points(seed=2)
        moved = torch.stack(fold_sectors(*near, tensor)) - torch.stack(fold_sectors(*other, tensor))
        distance = (near - other).norm(dim=0)
        assert (moved.norm(dim=0) <= distance * (1 + 1e-12) + 1e-14).all()


@pytest.mark.parametrize("theta", THETAS)
def test_order_two_is_continuous_where_sectors_meet(theta: tuple[float, float, float]) -> None:
    tensor = torch.tensor(theta, dtype=torch.float64)
    a, b = (float(np.clip(angle, 0, 2 * np.pi)) / 2 for angle in theta[1:])
    for ray in (0.0, a, a + b, np.pi + b):
        angles = torch.tensor([theta[0] / 2 + ray + side for side in (-1e-9, 1e-9)], dtype=torch.float64)
        x, y = fold_sectors(angles.cos(), angles.sin(), tensor)
        assert (x[0] - x[1]).hypot(y[0] - y[1]) < 1e-8


@pytest.mark.parametrize("theta", THETAS)
def test_order_two_has_an_orthogonal_jacobian(theta: tuple[float, float, float]) -> None:
    tensor = torch.tensor(theta, dtype=torch.float64)
    jacobian = torch.vmap(torch.func.jacrev(lambda z: torch.stack(fold_sectors(z[0], z[1], tensor))))(points(200).T)
    torch.testing.assert_close(jacobian.mT @ jacobian, torch.eye(2).double().expand(200, 2, 2), rtol=0, atol=1e-14)


def test_matrices_of_the_sectors() -> None:
    cosines, sines = four_sectors(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    np.testing.assert_allclose(cosines, np.cos([1.5, 2.0, 0.5]))
    np.testing.assert_allclose(sines, np.sin([1.5, 2.0, 0.5]))


@pytest.mark.parametrize("theta", [0.0, 0.4, np.pi / 2, 3.0, -1.0, 7.0])
def test_order_two_contains_order_one(theta: float) -> None:
    """theta_1 = 2 pi makes the first sector a half-plane, and the rest one reflection."""
    x, y = points()
    normal = (torch.tensor(np.sin(theta / 2)), torch.tensor(-np.cos(theta / 2)))
    wide = torch.tensor([theta - 2 * np.pi, 2 * np.pi, 1.0], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(fold(x, y, normal)), torch.stack(fold_sectors(x, y, wide)))


@pytest.mark.parametrize("length", [0.5, 1.0, 1.2])
def test_a_fold_is_continuous_and_as_steep_as_stated_for_any_normal(length: float) -> None:
    normal = tuple(length * torch.tensor([0.6, -0.8], dtype=torch.float64))
    slope = max(1.0, abs(1 - 2 * length**2))
    first, second = points(seed=1), points(seed=2)
    for step in (1.0, 1e-6):
        other = first + step * second
        moved = (torch.stack(fold(*first, normal)) - torch.stack(fold(*other, normal))).norm(dim=0)
        distance = (first - other).norm(dim=0)
        assert (moved <= slope * distance * (1 + 1e-12) + 1e-14).all()
        assert (moved / distance).max() > slope * 0.99


def test_a_fold_reflects_one_side() -> None:
    x, y = points()
    normal = np.array([0.6, -0.8])
    z = np.stack([x.numpy(), y.numpy()])
    reflection = np.eye(2) - 2 * np.outer(normal, normal)
    expected = np.where(normal @ z > 0, z, reflection @ z)
    images = fold(x, y, tuple(torch.from_numpy(normal)))
    np.testing.assert_allclose(torch.stack(images).numpy(), expected, atol=1e-14)
