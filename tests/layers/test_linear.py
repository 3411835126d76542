"""SOCLinear against the exponential of its skew matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lipnet.layers import SOCLinear
from tests.oracles import dense_jacobian, exponential, spectral_norm, to_numpy, truncation_error
from tests.settings import PUBLISHED

FEATURES = [(5, 5), (8, 3), (3, 8), (1, 4), (4, 1)]


@pytest.mark.parametrize("features", FEATURES)
def test_features_are_named_as_in_torch(features: tuple[int, int]) -> None:
    layer = SOCLinear(*features)
    assert (layer.in_features, layer.out_features) == features


@pytest.mark.parametrize("engine", ["auto", "series", "dense", "spectral"])
@pytest.mark.parametrize("features", FEATURES)
def test_the_jacobian_is_a_corner_of_the_exponential(features: tuple[int, int], engine: str) -> None:
    layer = SOCLinear(*features, engine=engine, dtype=torch.float64).eval()
    skew = to_numpy(layer.filter())[:, :, 0, 0]
    np.testing.assert_array_equal(skew, -skew.T)
    # The estimate is from below, and a little of fixed vectors is mixed into the converged ones.
    assert 1.4 <= spectral_norm(skew) <= 1.4 * (1 + 1e-5)
    jacobian = dense_jacobian(layer, torch.randn(1, features[0], dtype=torch.float64))
    corner = exponential(skew)[: features[1], : features[0]]
    tolerance = layer.eval_tolerance if engine == "series" else 1e-12
    np.testing.assert_allclose(jacobian, corner, rtol=0, atol=tolerance)


@pytest.mark.parametrize("features", FEATURES)
def test_the_published_jacobian_is_a_corner_of_the_exponential(features: tuple[int, int]) -> None:
    layer = SOCLinear(*features, engine="series", dtype=torch.float64, **PUBLISHED).eval()
    skew = to_numpy(layer.filter())[:, :, 0, 0]
    np.testing.assert_array_equal(skew, -skew.T)
    assert spectral_norm(skew) == pytest.approx(1.0, rel=1e-12)
    jacobian = dense_jacobian(layer, torch.randn(1, features[0], dtype=torch.float64))
    corner = exponential(skew)[: features[1], : features[0]]
    np.testing.assert_allclose(jacobian, corner, rtol=0, atol=truncation_error(1.0, 12) + 1e-14)


@pytest.mark.parametrize("engine", ["series", "dense", "spectral"])
@pytest.mark.parametrize("features", FEATURES)
def test_rows_or_columns_are_orthonormal(features: tuple[int, int], engine: str) -> None:
    layer = SOCLinear(*features, dtype=torch.float64, engine=engine, eval_terms=20).eval()
    jacobian = dense_jacobian(layer, torch.randn(1, features[0], dtype=torch.float64))
    product = jacobian @ jacobian.T if features[1] <= features[0] else jacobian.T @ jacobian
    np.testing.assert_allclose(product, np.eye(min(features)), rtol=0, atol=2e-12)
    assert layer.lipschitz_bound() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "most"),
    # Every engine has the bound of the series in training.
    [({}, math.inf), ({"engine": "dense"}, math.inf), (PUBLISHED, 2.0)],
    ids=["auto", "dense", "published"],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_bound_holds_after_an_optimisation_step(training: bool, options: dict[str, Any], most: float) -> None:
    layer = SOCLinear(6, 3, dtype=torch.float64, **options)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    x = torch.randn(8, 6, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        bound = layer.train(training).lipschitz_bound()
        assert spectral_norm(dense_jacobian(layer, x[:1])) <= bound * (1 + 1e-13)
        assert bound <= (most if training else 1.0)
        layer.train()


def test_batch_and_bias() -> None:
    layer = SOCLinear(4, 3, dtype=torch.float64).eval()
    jacobian = dense_jacobian(layer, torch.zeros(1, 4, dtype=torch.float64))
    x = torch.randn(7, 4, dtype=torch.float64)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(x) @ jacobian.T + to_numpy(layer.bias), rtol=0, atol=1e-14)
    assert SOCLinear(4, 3, bias=False).bias is None


def test_it_has_one_square_matrix_and_a_bias() -> None:
    layer = SOCLinear(6, 4)
    assert {name: tuple(value.shape) for name, value in layer.named_parameters()} == {
        "weight": (6, 6, 1, 1),
        "bias": (4,),
    }


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 4, 1, 1), (2, 4, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"SOCLinear needs an input of shape \(B, 4\), got \({received},?\)"):
        SOCLinear(4, 3)(torch.zeros(shape))


@pytest.mark.parametrize("features", [(0, 3), (3, 0)])
def test_numbers_of_features_below_one_are_refused(features: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {features[0]} in, {features[1]} out"):
        SOCLinear(*features)
