"""Convolutions divided by their norm, plain and with a residual connection in the kernel."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.layers import LiRes, MaxMin, ScaledConv2d, export
from tests.oracles import convolution_matrix, dense_jacobian, spectral_norm

LAYERS: dict[str, tuple[Callable[..., ScaledConv2d], int]] = {
    "stem": (lambda **settings: ScaledConv2d(3, 6, 5, 2, **settings), 8),
    "patches": (lambda **settings: ScaledConv2d(2, 5, 4, 4, padding=0, **settings), 8),
    "groups": (lambda **settings: ScaledConv2d(4, 6, 3, groups=2, **settings), 6),
    "circular": (lambda **settings: ScaledConv2d(3, 3, 3, padding_mode="circular", **settings), 6),
    "lires": (lambda **settings: LiRes(4, 4, depth=3, **settings), 6),
    "lires 1 x 1": (lambda **settings: LiRes(6, 6, kernel_size=1, **settings), 4),
    "lires in groups": (lambda **settings: LiRes(4, 4, groups=2, padding_mode="circular", **settings), 6),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, exact_size: bool = True) -> tuple[ScaledConv2d, torch.Tensor]:
    """Return a layer in float64 with its settings, and an input for it."""
    factory, size = LAYERS[name]
    layer = factory(size=size if exact_size else None, dtype=torch.float64)
    return layer, torch.rand(1, layer.in_channels, size, size, dtype=torch.float64)


def norm_of(layer: nn.Module, x: torch.Tensor) -> float:
    return spectral_norm(dense_jacobian(layer, x))


@pytest.mark.parametrize("depth", [1, 12])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_lires_is_the_identity_plus_a_convolution_up_to_a_scale(depth: int, padding_mode: str) -> None:
    layer = LiRes(4, 4, depth=depth, padding_mode=padding_mode, groups=2, dtype=torch.float64).eval()
    nn.init.normal_(layer.gamma)
    residual = convolution_matrix(layer.weight, 5, 5, groups=2, padding_mode=padding_mode)
    gamma = np.repeat(layer.gamma.detach().numpy(), 25)
    expected = np.eye(100) + gamma[:, None] * residual / math.sqrt(depth)
    jacobian = dense_jacobian(layer, torch.rand(1, 4, 5, 5, dtype=torch.float64))
    scale = jacobian[0, 0] / expected[0, 0]
    np.testing.assert_allclose(jacobian, scale * expected, atol=1e-13)
    assert scale > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kernel_size", "stride", "size", "padding_mode"),
    [(9, 1, 4, "zeros"), (9, 2, 4, "zeros"), (9, 1, 4, "circular"), (5, 1, 2, "circular"), (5, 2, 4, "circular")],
)
def test_the_bound_holds_on_maps_that_are_smaller_than_the_kernel(
    kernel_size: int, stride: int, size: int, padding_mode: str, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = ScaledConv2d(2, 2, kernel_size, stride, size=size, padding_mode=padding_mode).double().eval()
    norm = norm_of(layer, torch.rand(1, 2, size, size, dtype=torch.float64))
    assert 0.1 < norm <= lipschitz_bound(layer) < 1.1


@each_layer
def test_arguments_are_those_of_a_convolution(name: str) -> None:
    layer, x = make(name)
    layer.eval()
    rows, columns = layer.padding
    padded = F.pad(x, (columns, columns, rows, rows), "circular" if layer.padding_mode == "circular" else "constant")
    expected = F.conv2d(padded, layer.operands((1, 1))[0], layer.bias, layer.stride, groups=layer.groups)
    torch.testing.assert_close(layer(x), expected)


@each_layer
@pytest.mark.parametrize("exact_size", [True, False])
def test_the_bound_is_just_above_the_norm(name: str, exact_size: bool) -> None:
    layer, x = make(name, exact_size)
    layer.eval()
    norm, bound = norm_of(layer, x), lipschitz_bound(layer)
    assert norm <= bound <= 1.1
    if layer.padding_mode == "circular" and exact_size:
        assert bound <= norm * 1.002


@pytest.mark.cover(1)
@each_layer
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3, 1e3])
def test_the_bound_holds_for_hostile_weights(name: str, scale: float) -> None:
    layer, x = make(name)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.weight[0] += 100 * scale * torch.randn_like(layer.weight[0])
        layer.weight[:, :, 0] = 0
    assert norm_of(layer, x) <= layer.lipschitz_bound() * (1 + 1e-12)
    layer.eval()
    assert norm_of(layer, x) <= lipschitz_bound(layer) * (1 + 1e-12)
    assert lipschitz_bound(layer) <= 1.1


@each_layer
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_certify_nothing(name: str, value: float) -> None:
    layer, _ = make(name)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = value
    assert layer.lipschitz_bound() == math.inf
    assert layer.eval().lipschitz_bound() == math.inf


@pytest.mark.parametrize("name", ["stem", "lires"])
def test_the_bound_is_not_the_estimate_that_scales(name: str) -> None:
    layer, x = make(name)
    layer.eval()
    torch.nn.init.zeros_(layer.estimate.vector)
    layer.estimate.converged = lambda kernel: torch.zeros_like(layer.estimate.vector)  # type: ignore[method-assign]
    norm, bound = norm_of(layer, x), layer.lipschitz_bound()
    assert norm > 1.5, "the estimate must be wrong"
    assert norm <= bound


@each_layer
def test_the_guarantee_after_training(name: str) -> None:
    layer, x = make(name)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        layer(x).square().sum().mul(-1).backward()
        optimizer.step()
    assert norm_of(layer, x) <= layer.lipschitz_bound()
    layer.eval()
    assert norm_of(layer, x) <= lipschitz_bound(layer) <= 1.1


def test_zero_padding_may_exceed_the_frequencies_of_its_own_size() -> None:
    # At the three frequencies of maps of width 3 the response is at most 2; with zero padding the norm is 1 + sqrt(2).
    layer = ScaledConv2d(1, 1, kernel_size=(1, 3), size=(1, 3), dtype=torch.float64).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([-1.0, 1.0, -1.0]))
    assert norm_of(layer, torch.ones(1, 1, 1, 3, dtype=torch.float64)) <= lipschitz_bound(layer)


def test_calls_on_an_unchanged_weight_compute_one_function() -> None:
    layer, x = make("lires")
    nn.init.normal_(layer.estimate.vector)
    first = layer(x)
    vector = layer.estimate.vector.clone()
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.estimate.vector, vector)
    assert torch.equal(copy.deepcopy(layer).estimate.vector, vector)
    with torch.no_grad():
        layer.gamma.mul_(1)
    assert not torch.equal(layer(x), first)


@each_layer
def test_gradients_with_the_vector_held(name: str) -> None:
    layer, x = make(name)
    layer(x)
    # Repeated calls with unchanged parameters use the same vector; functional_call has others, so hold it.
    held = layer.estimate.converged(layer._strided(layer.free_kernel(*layer.weights())).weight)
    layer.eval()
    layer.estimate.converged = lambda kernel: held  # type: ignore[method-assign]
    weights = [weight.detach().clone().requires_grad_() for weight in layer.weights()]
    assert torch.autograd.gradcheck(lambda *each: layer.compute_operands(*each, size=(1, 1))[0], weights)


def test_maps_beyond_the_size_of_the_bound_are_refused() -> None:
    layer, x = make("lires")
    layer(x[:, :, :5, :4])
    with pytest.raises(ValueError, match=r"made for maps of at most size=\(6, 6\), got \(7, 6\)"):
        layer(torch.zeros(1, 4, 7, 6, dtype=torch.float64))
    layer, x = make("circular")
    with pytest.raises(ValueError, match=r"made for maps of size=\(6, 6\), got \(5, 6\)"):
        layer(x[:, :, :5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "padding 'same' needs an odd kernel_size"),
        ({"padding": "full"}, "padding must be 'same' or a number of pixels, got 'full'"),
        ({"padding": 3}, "padding must be at least 0 and below kernel_size"),
        ({"dilation": 2}, "dilation must be 1, got 2"),
        ({"groups": 3}, "groups must divide .*, got 3"),
        ({"stride": 0}, "kernel_size and stride must be positive"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of .*, got 'reflect'"),
        ({"padding_mode": "circular", "padding": 0}, "circular padding must be 'same'"),
        ({"size": 0}, "size must be positive"),
        ({"size": 5, "stride": 2}, r"size must be positive and divisible by the stride \(2, 2\), got \(5, 5\)"),
    ],
)
def test_settings_that_the_bound_does_not_cover_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaledConv2d(4, 4, **settings)


@pytest.mark.parametrize(
    "settings", [{"out_channels": 5}, {"stride": 2}, {"kernel_size": 2, "padding": 0}, {"padding": 0}]
)
def test_lires_needs_outputs_of_the_inputs_shape(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="LiRes adds its input, so it needs equal channels"):
        LiRes(**{"in_channels": 4, "out_channels": 4, **settings})
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        LiRes(4, 4, depth=0)


def test_validation_takes_an_estimate_without_a_proof() -> None:
    layer, _ = make("lires")
    assert layer.eval().lipschitz_estimate() == 1.0
    with torch.no_grad():
        layer.gamma[0] = math.nan
    assert layer.lipschitz_estimate() == math.inf


def test_a_network_of_them_is_certified_and_exported() -> None:
    model = nn.Sequential(ScaledConv2d(2, 4, 4, 4, padding=0), LiRes(4, 4), MaxMin(), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(4, 2, 8, 8)
    model(images)
    model.eval()
    torch.testing.assert_close(export(model, (2, 8, 8))(images), model(images), rtol=0, atol=1e-5)
    assert bool((certify(model.double(), images, [0, 1, 2, 0]).radius > 0).all())
