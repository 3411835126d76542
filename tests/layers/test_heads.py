"""NormalizedLinear: its rows, its gradients, and the bounds that it declares."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.layers import NormalizedLinear
from tests.oracles import dense_jacobian, spectral_norm, to_numpy


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("features", [(5, 3), (3, 7), (1, 4), (6, 1)])
def test_rows_have_length_one(features: tuple[int, int], scale: float) -> None:
    head = NormalizedLinear(*features, dtype=torch.float64)
    with torch.no_grad():
        head.weight.mul_(scale)
    weight = to_numpy(head.weight)
    expected = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    x = torch.randn(4, features[0], dtype=torch.float64)
    np.testing.assert_allclose(dense_jacobian(head, x[:1]), expected, rtol=1e-14)
    np.testing.assert_allclose(to_numpy(head(x)), to_numpy(x) @ expected.T + to_numpy(head.bias), atol=1e-14)
    assert spectral_norm(expected) <= head.lipschitz_bound() * (1 + 1e-15)
    assert head.lipschitz_bound() == pytest.approx(spectral_norm(expected), rel=1e-9)


def test_differences_of_logits_are_bounded_by_the_distances_of_the_rows() -> None:
    head = NormalizedLinear(6, 4, dtype=torch.float64)
    jacobian = dense_jacobian(head, torch.randn(1, 6, dtype=torch.float64))
    distances = np.linalg.norm(jacobian[:, None] - jacobian[None], axis=2)
    bounds = to_numpy(head.pairwise_lipschitz())
    assert (bounds >= distances).all()
    np.testing.assert_allclose(bounds, distances, rtol=1e-9, atol=1e-100)


def test_bounds_follow_the_weights_through_training_and_conversion() -> None:
    head = NormalizedLinear(6, 4)
    optimizer = torch.optim.SGD(head.parameters(), lr=5.0)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(head(torch.randn(8, 6)), torch.arange(8) % 4).backward()
        optimizer.step()
        rows = F.normalize(head.weight.detach().double())
        assert head.pairwise_lipschitz()[0, 1] == pytest.approx((rows[0] - rows[1]).norm().item(), rel=1e-6)
    assert head.double().pairwise_lipschitz()[0, 1] == pytest.approx((rows[0] - rows[1]).norm().item(), rel=2e-10)


def test_the_distances_of_the_rows_are_what_is_bounded() -> None:
    head = NormalizedLinear(6, 4, dtype=torch.float64)
    with torch.no_grad():
        head.weight[1] = 3 * head.weight[0] + 1e-6
    distances, bounds = head.row_distances(), head.pairwise_lipschitz()
    apart = ~torch.eye(4, dtype=torch.bool)
    assert (distances <= bounds).all()
    torch.testing.assert_close(distances[apart], bounds[apart], rtol=1e-8, atol=0)
    (gradient,) = torch.autograd.grad(distances.sum(), [head.weight])
    assert gradient.isfinite().all()
    assert gradient.any()


def test_gradients() -> None:
    head = NormalizedLinear(4, 3, dtype=torch.float64)
    weight, bias = head.weight.detach().requires_grad_(), head.bias.detach().requires_grad_()
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(function, (x, weight, bias))


def test_a_zero_row_stays_zero_and_declares_nothing() -> None:
    head = NormalizedLinear(4, 3, dtype=torch.float64)
    with torch.no_grad():
        head.weight[1] = 0
    logits = head(torch.randn(5, 4, dtype=torch.float64))
    logits.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()
    assert logits[:, 1].tolist() == [head.bias[1].item()] * 5
    bounds = head.pairwise_lipschitz()
    assert bounds[1].tolist() == bounds[:, 1].tolist() == [inf] * 3
    assert bounds[0, 2].isfinite()


@pytest.mark.parametrize("value", [nan, inf])
def test_a_row_that_is_not_finite_declares_nothing(value: float) -> None:
    head = NormalizedLinear(4, 3)
    with torch.no_grad():
        head.weight[2, 1] = value
    assert head.lipschitz_bound() == inf
    assert head.pairwise_lipschitz()[2].tolist() == [inf] * 3


def test_it_is_like_a_linear_layer() -> None:
    assert [tuple(value.shape) for value in NormalizedLinear(4, 3).parameters()] == [(3, 4), (3,)]
    assert NormalizedLinear(4, 3, bias=False).bias is None
    assert repr(NormalizedLinear(4, 3, bias=False)) == "NormalizedLinear(4, 3, bias=False)"
    assert NormalizedLinear(4, 3)(torch.zeros(0, 4)).shape == (0, 3)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 4, 1, 1)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"NormalizedLinear needs an input of shape \(B, 4\), got \("):
        NormalizedLinear(4, 3)(torch.zeros(shape))


@pytest.mark.parametrize("features", [(0, 3), (3, 0), (nan, 3), (3, inf), (2.5, 3)])
def test_features_that_are_no_positive_integers_are_refused(features: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"integers of at least 1, got {features[0]} in, {features[1]} out"):
        NormalizedLinear(*features)
