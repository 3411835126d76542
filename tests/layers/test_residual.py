"""The skip connection: its function, its errors, and a guarantee that survives training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.layers import SOC, MaxMin, Residual, SOCLinear, export


def test_it_adds_with_its_weights() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    block = Residual(nn.ReLU(), skip=0.25, branch=-2.0)
    torch.testing.assert_close(block(x), 0.25 * x - 2 * x.relu())
    assert repr(block).startswith("Residual(\n  skip=0.25, branch=-2.0\n  (body): ReLU()")


@pytest.mark.parametrize("weights", [(math.nan, 1.0), (0.5, math.inf)])
def test_weights_that_are_not_finite_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="skip and branch must be finite numbers, got"):
        Residual(nn.ReLU(), *weights)


def test_a_body_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps the shape, got \(2, 4\) for \(2, 3\)"):
        Residual(nn.Linear(3, 4))(torch.zeros(2, 3))


def test_a_network_with_it_is_trained_certified_and_exported() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(SOC(4, 4), MaxMin())
    model = nn.Sequential(SOC(2, 4, stride=2), Residual(body), nn.AvgPool2d(2), nn.Flatten(), SOCLinear(16, 3))
    images, labels = torch.rand(8, 2, 8, 8), torch.randint(3, (8,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()
    assert lipschitz_bound(model) == 0.5
    torch.testing.assert_close(export(model, (2, 8, 8))(images), model(images), rtol=0, atol=1e-5)
    assert bool((certify(model.double(), images, labels).radius > 0).any())
