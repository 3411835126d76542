"""Orthogonal matrices on the channels: their structure, their bound, and what optimizers do to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.certify import lipschitz_bound
from lipnet.layers import OrthogonalMixing, SpatialMixing, export
from tests.oracles import dense_jacobian, permutation_matrix, shuffle_places, spectral_norm, to_numpy

SETTINGS = [(6, 1), (12, 3), (8, 8)]
PARAMETRIZATIONS = ("cayley", "manifold")


def make(channels: int, groups: int, **settings: Any) -> OrthogonalMixing:
    layer = OrthogonalMixing(channels, groups, dtype=torch.float64, **settings)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer.eval()


def matrix_of(layer: OrthogonalMixing) -> np.ndarray:
    return dense_jacobian(layer, torch.rand(1, layer.channels, dtype=layer.weight.dtype))


def block_diagonal(blocks: torch.Tensor) -> np.ndarray:
    count, size, _ = blocks.shape
    dense = np.zeros((count * size, count * size))
    for number in range(count):
        place = slice(number * size, (number + 1) * size)
        dense[place, place] = to_numpy(blocks[number])
    return dense


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("channels", "groups"), SETTINGS)
def test_it_is_the_product_of_its_factors(channels: int, groups: int, parametrization: str) -> None:
    layer = make(channels, groups, parametrization=parametrization)
    factors = [block_diagonal(blocks) for blocks in layer.matrices().detach()]
    expected = factors[0]
    if groups > 1:
        shuffle = permutation_matrix(shuffle_places(channels, groups, paired=False))
        expected = shuffle.T @ factors[1] @ shuffle @ factors[0]
    matrix = matrix_of(layer)
    np.testing.assert_allclose(matrix, expected, atol=1e-14)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(channels), atol=1e-13)
    transposed = dense_jacobian(
        lambda x: layer.rotate(x, layer.matrices(), transposed=True), torch.rand(1, channels, dtype=torch.float64)
    )
    np.testing.assert_allclose(transposed, expected.T, atol=1e-14)


def test_group_and_shuffle_is_dense_where_the_blocks_are_as_large_as_many() -> None:
    assert (np.abs(matrix_of(make(16, 4))) > 1e-12).all()
    assert (np.abs(matrix_of(make(12, 6))) < 1e-12).any()


@pytest.mark.parametrize("groups", [1, 3])
def test_it_acts_on_each_pixel(groups: int) -> None:
    layer, x = make(6, groups), torch.rand(2, 6, 4, 5, dtype=torch.float64)
    pixel = layer(x[:, :, 2, 3])
    torch.testing.assert_close(layer(x)[:, :, 2, 3], pixel)
    torch.testing.assert_close(layer(x[:, :, 2])[:, :, 3], pixel)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize(("channels", "groups"), SETTINGS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_the_bound_holds_for_every_weight(channels: int, groups: int, parametrization: str, scale: float) -> None:
    layer = make(channels, groups, parametrization=parametrization)
    with torch.no_grad():
        layer.weight.mul_(scale)
    norm, bound = spectral_norm(matrix_of(layer)), lipschitz_bound(layer)
    assert norm <= bound * (1 + 1e-14)
    if parametrization == "cayley":
        assert bound < 1 + 1e-6


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_bound_covers_the_drift_of_an_optimizer_without_retraction(parametrization: str) -> None:
    layer = make(6, 3, parametrization=parametrization).train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(8, 6, dtype=torch.float64)).square().mul(torch.arange(6)).sum().mul(-1e-3).backward()
        optimizer.step()
        bound = layer.eval().lipschitz_bound()
        assert spectral_norm(matrix_of(layer)) <= bound
        layer.train()
    assert (bound > 1.01) == (parametrization == "manifold")


def test_weights_that_are_not_finite_certify_nothing() -> None:
    for parametrization in PARAMETRIZATIONS:
        layer = make(4, 1, parametrization=parametrization)
        with torch.no_grad():
            layer.weight[1, 0] = math.nan
        assert lipschitz_bound(layer) == math.inf


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients(groups: int) -> None:
    layer = make(4, groups).train()
    x = torch.randn(2, 4, 3, 1, dtype=torch.float64, requires_grad=True)

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.weight.detach().clone().requires_grad_()))


def test_training_and_evaluation_compute_the_same_matrix() -> None:
    layer = OrthogonalMixing(8, 2)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(layer(x), layer.eval()(x))


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_it_is_exported(parametrization: str) -> None:
    layer = SpatialMixing(8, 1, share=0.25, parametrization=parametrization).eval()
    x = torch.rand(2, 8, 3, 3)
    torch.testing.assert_close(export(layer, (8, 3, 3))(x), layer(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 6, "groups": 4}, "groups must divide channels = 6, got 4"),
        ({"channels": 6, "groups": 0}, "groups must divide channels = 6, got 0"),
        ({"channels": 6, "parametrization": "qr"}, "parametrization must be one of .*, got 'qr'"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrthogonalMixing(**arguments)


def test_an_input_with_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an input of shape \(B, 6, \.\.\.\), got \(2, 5\)"):
        make(6, 1)(torch.zeros(2, 5, dtype=torch.float64))


def test_the_published_initialisation_needs_no_memory_on_the_meta_device() -> None:
    layer = OrthogonalMixing(2048, parametrization="manifold", device="meta")
    assert layer.weight.shape == (2048, 2048)
    assert layer.manifold_parameters() == [layer.weight]


def test_representation() -> None:
    assert OrthogonalMixing(4).extra_repr() == "4, parametrization='cayley'"
    grouped = OrthogonalMixing(4, 2, bias=False, parametrization="manifold")
    assert grouped.extra_repr() == "4, groups=2, bias=False, parametrization='manifold'"
