"""Householder activations: orthogonal Jacobians, rigorous bounds, angles that learn."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan, pi

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.certify import lipschitz_bound
from lipnet.functional import channel_shuffle
from lipnet.functional.householder import four_sectors
from lipnet.layers import Householder, HouseholderOrder2, MaxMin, MaxMinPermuted
from tests.oracles import dense_jacobian

ACTIVATIONS = [Householder, HouseholderOrder2]
SHAPES = [(3, 2), (2, 8), (2, 6, 5), (5, 4, 3, 5)]


def activation(kind: type[nn.Module], channels: int, **settings: bool) -> nn.Module:
    """Return an activation in float64 with different angles, some beyond a full turn."""
    layer = kind(channels, dtype=torch.float64, **settings)
    nn.init.uniform_(layer.theta, -1.0, 8.0)
    return layer


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_the_jacobian_is_orthogonal(kind: type[nn.Module], shape: tuple[int, ...], neighbours: bool) -> None:
    layer = activation(kind, shape[1], neighbours=neighbours)
    for _ in range(3):
        jacobian = dense_jacobian(layer, torch.randn(shape, dtype=torch.float64))
        np.testing.assert_allclose(jacobian.T @ jacobian, np.eye(len(jacobian)), atol=1e-14)
    assert layer(torch.zeros(0, *shape[1:]).double()).shape == (0, *shape[1:])


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_ties_and_zeros_keep_an_orthogonal_jacobian(kind: type[nn.Module]) -> None:
    jacobian = dense_jacobian(activation(kind, 4), torch.zeros(1, 4, 2, dtype=torch.float64))
    np.testing.assert_allclose(jacobian.T @ jacobian, np.eye(8), atol=1e-14)


@pytest.mark.parametrize("neighbours", [False, True])
def test_order_one_starts_as_max_min(neighbours: bool) -> None:
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    expected = MaxMinPermuted() if neighbours else MaxMin()
    layer = Householder(6, neighbours=neighbours, dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected(x), rtol=0, atol=1e-14)


def published_householder(z: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """The HouseHolder activation of the published SOC code, with theta of shape (1, channels / 2, 1, 1)."""
    x, y = z.split(z.shape[1] // 2, 1)
    selector = x * torch.sin(0.5 * theta) - y * torch.cos(0.5 * theta)
    a = x * torch.cos(theta) + y * torch.sin(theta)
    b = x * torch.sin(theta) - y * torch.cos(theta)
    return torch.cat([torch.where(selector <= 0, x, a), torch.where(selector <= 0, y, b)], dim=1)


def test_published_angles_are_imported_by_adding_a_turn() -> None:
    theta, x = 8 * torch.rand(1, 3, 1, 1, dtype=torch.float64) - 4, torch.randn(5, 6, 3, 3, dtype=torch.float64)
    layer = Householder(6, dtype=torch.float64)
    with torch.no_grad():
        layer.theta.copy_(theta.flatten() + 2 * pi)
        torch.testing.assert_close(layer(x), published_householder(x, theta), rtol=0, atol=1e-13)
        # Without the conversion the other half is reflected.
        layer.theta.copy_(theta.flatten())
        assert not torch.allclose(layer(x), published_householder(x, theta), atol=0.1)
    assert "theta.flatten() + 2 * pi" in (Householder.__doc__ or "")


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_each_pair_has_angles_of_its_own(kind: type[nn.Module]) -> None:
    layer, x = activation(kind, 6), torch.randn(4, 6, 5, dtype=torch.float64)
    for pair in range(3):
        single = kind(2, dtype=torch.float64)
        single.theta.data = layer.theta.data[..., pair : pair + 1]
        torch.testing.assert_close(layer(x)[:, [pair, pair + 3]], single(x[:, [pair, pair + 3]]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_neighbours_commute_with_a_paired_shuffle_of_equal_angles(kind: type[nn.Module]) -> None:
    layer, x = kind(16, neighbours=True, dtype=torch.float64), torch.randn(2, 16, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.theta.copy_(layer.theta[..., :1].expand_as(layer.theta))
    assert torch.equal(layer(channel_shuffle(x, 4, paired=True)), channel_shuffle(layer(x), 4, paired=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_covers_the_rounded_normals(dtype: torch.dtype) -> None:
    """|v|^2 = 1 + d with a rounding error d makes the reflection's norm 1 + 2 d."""
    layer = Householder(2000, dtype=dtype)
    nn.init.uniform_(layer.theta, -7, 7)
    normals = torch.stack([(layer.theta / 2).sin(), (layer.theta / 2).cos()]).double().tolist()
    norms = [abs(1 - 2 * (Fraction(a) ** 2 + Fraction(b) ** 2)) for a, b in zip(*normals, strict=True)]
    assert max(norms) > 1, "with no normal too long the test would show nothing"
    assert Fraction(layer.lipschitz_bound()) >= max(norms)
    assert layer.lipschitz_bound() <= 1 + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_covers_the_rounded_matrices(dtype: torch.dtype) -> None:
    layer = HouseholderOrder2(2000, dtype=dtype)
    cosines, sines = (values.flatten().double().tolist() for values in four_sectors(layer.theta.detach()))
    squared = max(Fraction(c) ** 2 + Fraction(s) ** 2 for c, s in zip(cosines, sines, strict=True))
    assert squared > 1, "with no matrix too long the test would show nothing"
    assert Fraction(layer.lipschitz_bound()) ** 2 >= squared
    assert layer.lipschitz_bound() <= 1 + 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_the_guarantee_holds_while_the_angles_learn(kind: type[nn.Module]) -> None:
    layer = activation(kind, 8)
    optimizer, start = torch.optim.SGD(layer.parameters(), lr=0.5), layer.theta.detach().clone()
    target = torch.randn(64, 8, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(torch.randn(64, 8, dtype=torch.float64)), target).backward()
        optimizer.step()
        x, y = torch.randn(2, 1000, 8, dtype=torch.float64)
        moved = (layer(x) - layer(y)).norm(dim=1) / (x - y).norm(dim=1)
        assert moved.max() <= lipschitz_bound(layer.eval()) * (1 + 1e-14)
    assert (layer.theta != start).any(dim=-1).all()


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_gradients(kind: type[nn.Module]) -> None:
    layer = activation(kind, 4)
    inputs = (torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True), layer.theta.detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, theta: torch.func.functional_call(layer, {"theta": theta}, x), inputs)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_half_precision_stays_half_precision(kind: type[nn.Module]) -> None:
    assert kind(4)(torch.randn(2, 4, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_angles_that_are_not_finite_have_no_bound(kind: type[nn.Module], value: float) -> None:
    layer = kind(4)
    with torch.no_grad():
        layer.theta[..., 0] = value
    assert layer.lipschitz_bound() == inf


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_what_does_not_fit_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs an even number of channels, got 3"):
        kind(3)
    for channels in (nan, inf, 4.0):
        with pytest.raises(ValueError, match=rf"{kind.__name__} needs an even number of channels, got {channels}"):
            kind(channels)
    with pytest.raises(ValueError, match=r"needs an input of shape \(B, 4, \.\.\.\), got \(1, 6, 2\)"):
        kind(4)(torch.zeros(1, 6, 2))
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        kind(4)(torch.zeros(4))


def test_representation() -> None:
    assert repr(Householder(4, neighbours=True)) == "Householder(4, neighbours=True)"
    assert repr(HouseholderOrder2(4)) == "HouseholderOrder2(4)"
