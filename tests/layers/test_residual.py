"""The skip connection: its function, its errors, and a guarantee that survives training."""

from __future__ import annotations

import math
from collections.abc import Callable

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


@pytest.mark.parametrize("weights", [(math.nan, 1.0), (0.5, math.inf), (-math.inf, 0.5), (0.5, math.nan)])
def test_weights_that_are_not_finite_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="skip and branch must be finite numbers, got"):
        Residual(nn.ReLU(), *weights)


def test_a_body_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keeps the shape, got \(2, 4\) for \(2, 3\)"):
        Residual(nn.Linear(3, 4))(torch.zeros(2, 3))


@pytest.mark.slow
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


class Doubling(nn.Module):
    """User's body that works in place without an attribute that tells."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)

    def lipschitz_bound(self) -> float:
        return 2.0


def steep(inplace: bool) -> nn.Module:
    return nn.LeakyReLU(10.0, inplace=inplace)


IN_PLACE = [
    pytest.param(steep, lambda x: nn.functional.leaky_relu(x, 10.0), id="module"),
    pytest.param(lambda inplace: nn.Sequential(steep(inplace), nn.Identity()), None, id="sequential"),
    pytest.param(lambda inplace: nn.Sequential(nn.Identity(), nn.Flatten(), steep(inplace)), None, id="views before"),
    pytest.param(lambda inplace: Residual(steep(inplace), 0.25, 2.0), None, id="nested"),
    pytest.param(lambda inplace: Residual(nn.Sequential(Residual(steep(inplace)), steep(inplace))), None, id="twice"),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("make", "function"), IN_PLACE)
def test_a_body_that_works_in_place_leaves_the_skip_connection_alone(
    make: Callable[[bool], nn.Module], function: Callable[[torch.Tensor], torch.Tensor] | None, training: bool
) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = Residual(make(False), 1.0, 0.5).train(training)(x)
    if function is not None:
        torch.testing.assert_close(expected, x + 0.5 * function(x))
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    block = Residual(make(True), 1.0, 0.5).train(training)
    result = block(x * weight)
    assert torch.equal(result, expected)
    (gradient,) = torch.autograd.grad(result.sum(), weight)
    # The functions are positively homogeneous.
    torch.testing.assert_close(gradient, expected.sum())
    with torch.inference_mode():
        assert torch.equal(block(x.clone()), expected)


def test_functions_that_work_in_place_leave_the_skip_connection_alone() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Residual(Doubling(), 1.0, 0.5)(x.clone()), x + 0.5 * 2 * x)
    assert torch.equal(Residual(Residual(Doubling()), 1.0, 1.0)(x.clone()), x + 0.5 * x + 0.5 * 2 * x)


@pytest.mark.parametrize("body", [nn.LeakyReLU(10.0, inplace=True), nn.Sequential(nn.LeakyReLU(10.0, inplace=True))])
def test_the_bound_holds_for_bodies_that_work_in_place(body: nn.Module) -> None:
    block = Residual(body, 1.0, 1e-9).double().eval()
    bound = lipschitz_bound(Residual(nn.LeakyReLU(10.0), 1.0, 1e-9).eval())
    x, y = torch.full((1, 1), -1.0, dtype=torch.float64), torch.full((1, 1), -2.0, dtype=torch.float64)
    # Had the body overwritten x first, the slope would be 10.
    slope = float((block(x.clone()) - block(y.clone())).abs() / (x - y).abs())
    assert slope == pytest.approx(1 + 1e-8, rel=1e-12)
    assert slope <= bound * (1 + 1e-12)
    assert bound < 1.001


def test_a_body_that_reshapes_its_input_in_place_is_refused() -> None:
    class Reshaping(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.unsqueeze_(0)

    with pytest.raises(ValueError, match=r"keeps the shape, got \(1, 2, 3\) for \(2, 3\)"):
        Residual(Reshaping())(torch.zeros(2, 3))
