"""The measured singular values agree with those of known matrices."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.orthogonality import (
    convolutions,
    largest_singular_value,
    layer_figures,
    network_figures,
    network_norm,
    singular_values,
)
from lipnet.layers import SOC
from lipnet.models import LipConvNet
from tests.oracles import convolution_matrix, dense_jacobian, spectral_norm

SHAPE = (3, 5, 5)
SMALL = {"depth": 4, "stages": 2, "initial_channels": 4, "image_size": 8}


@pytest.fixture
def layer() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, padding=1)


def test_singular_values_are_those_of_the_matrix(layer: nn.Conv2d) -> None:
    expected = np.linalg.svd(convolution_matrix(layer.weight, 5, 5), compute_uv=False)
    np.testing.assert_allclose(singular_values(layer, SHAPE).numpy(), expected, atol=1e-5)


def test_largest_singular_value(layer: nn.Conv2d) -> None:
    expected = spectral_norm(convolution_matrix(layer.weight, 5, 5))
    assert largest_singular_value(layer, SHAPE, steps=30) == pytest.approx(expected, rel=1e-5)
    assert 0.5 * expected < largest_singular_value(layer, SHAPE, steps=3) < (1 + 1e-6) * expected


def test_largest_singular_value_of_an_orthogonal_layer() -> None:
    torch.manual_seed(0)
    assert largest_singular_value(SOC(3, 3).eval().requires_grad_(False), SHAPE) == pytest.approx(1, abs=1e-6)
    assert largest_singular_value(nn.Identity(), SHAPE) == pytest.approx(1, abs=1e-6)


def test_largest_singular_value_of_a_layer_that_is_zero() -> None:
    layer = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(layer.weight)
    assert largest_singular_value(layer, SHAPE) == 0


def test_network_norm_is_the_largest_over_the_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))
    images = torch.randn(3, *SHAPE)
    expected = [spectral_norm(dense_jacobian(model, image[None])) for image in images]
    assert network_norm(model, images) == pytest.approx(max(expected), rel=1e-5)
    assert max(expected) > min(expected)


def test_convolutions_and_the_shapes_of_their_maps() -> None:
    model = LipConvNet(10, **SMALL)
    found = convolutions(model, (3, 8, 8))
    assert [shape for _, shape in found] == [(3, 8, 8), (4, 8, 8), (8, 4, 4), (8, 4, 4)]
    assert [layer.stride for layer, _ in found] == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert all(isinstance(layer, SOC) for layer, _ in found)


@pytest.mark.slow
def test_figures_distinguish_orthogonal_layers_from_others() -> None:
    orthogonal = layer_figures(LipConvNet, steps=3)["evaluation"]
    for smallest, largest in orthogonal.values():
        # Within 1 - 2 eval_tolerance and 1.
        assert smallest == pytest.approx(1, abs=2e-4)
        assert largest == pytest.approx(1, abs=2e-4)

    def doubled(*arguments: int, **settings: int) -> nn.Module:
        layer = SOC(*arguments, **settings)
        layer.register_forward_hook(lambda _module, _inputs, maps: 2 * maps)
        return layer

    for smallest, largest in layer_figures(partial(LipConvNet, conv=doubled), steps=0)["evaluation"].values():
        assert smallest == pytest.approx(2, abs=0.01)
        assert largest == pytest.approx(2, abs=0.01)


@pytest.mark.slow
def test_network_figures_stay_below_the_product() -> None:
    figures = network_figures(partial(LipConvNet, **SMALL | {"image_size": 32}), 2, lambda model: model)
    assert figures["product"] == pytest.approx(1, abs=1e-4)
    assert 0 < figures["evaluation"] <= 1 + 1e-5
    assert figures["training"] != figures["evaluation"]
