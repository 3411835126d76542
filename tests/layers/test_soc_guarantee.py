"""The guarantee of SOC: lipschitz_bound() is never below the norm of the Jacobian, whatever the weights and buffers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.functional.gain import polynomial_gain
from lipnet.layers import SOC, SOC1d, SOCLinear, SOCTranspose
from lipnet.layers.engines.prepared import norm_bound
from tests.oracles import (
    Matrix,
    convolution_matrix,
    dense_jacobian,
    fantastic_four,
    spectral_norm,
    symbol_supremum,
)
from tests.settings import PATHS, PUBLISHED, SCALINGS, touch

# Every engine with either padding mode, either scaling and either series. The first takes a dense matrix in evaluation.
SETTINGS: list[dict[str, Any]] = [
    {"in_channels": 6, "out_channels": 6},
    {"in_channels": 2, "out_channels": 6, "stride": 2, "groups": 2, "engine": "series"},
    {"in_channels": 3, "out_channels": 6, "padding_mode": "circular", "kernel_size": (3, 1), "engine": "spectral"},
    {"in_channels": 6, "out_channels": 4, "kernel_size": 1, "groups": 2, "engine": "series", "scaling": "reshaped"},
    {"in_channels": 4, "out_channels": 4, "engine": "dense", "scaling": "reshaped"},
    {"in_channels": 4, "out_channels": 4, "engine": "series", "padding_mode": "circular", "recompute": True},
    {"in_channels": 4, "out_channels": 4, "engine": "series", "kernel_size": 5, **PUBLISHED},
]


def gain(layer: SOC | SOCTranspose) -> float:
    """The norm of the dense Jacobian."""
    size = (4,) if isinstance(layer, SOC1d) else (6, 4)
    return spectral_norm(dense_jacobian(layer, torch.randn(1, layer.in_channels, *size, dtype=torch.float64)))


def assert_guaranteed(layer: SOC | SOCTranspose) -> None:
    for training in (False, True):
        layer.train(training)
        bound = layer.lipschitz_bound()
        assert gain(layer) <= bound * (1 + 1e-13) < math.inf
        assert training or bound == 1.0


def vectors_of(layer: SOC) -> list[torch.Tensor]:
    return list(layer.scaling.buffers())


def random_weights(weight: torch.Tensor, scale: float) -> None:
    weight.normal_().mul_(scale)


def rank_one_weights(weight: torch.Tensor, scale: float) -> None:
    first, second = torch.randn(weight.shape[0], dtype=weight.dtype), torch.randn(weight.shape[1], dtype=weight.dtype)
    weight.copy_(scale * torch.outer(first, second)[..., None, None])
    weight[:, :, 0, 0] *= 2


def decoupled_weights(weight: torch.Tensor, scale: float) -> None:
    """Return weights that do not couple the two halves of the channels; the second half is far larger."""
    weight.normal_()
    half = weight.shape[1] // 2
    weight[:, half:] *= 1e3 * scale
    weight[:half, half:] = 0
    weight[half:, :half] = 0


def symmetric_weights(weight: torch.Tensor, scale: float) -> None:
    """Weights without a skew part: J is 0 and exp(J) the identity."""
    weight.zero_()
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = scale


@pytest.mark.parametrize(
    ("kernel_size", "norm"),
    [(1, 1.0), (3, 0.7), (5, 2.1 / 5), ((3, 1), 2.1 / math.sqrt(3)), ((1, 5), 2.1 / math.sqrt(5))],
)
def test_each_group_is_scaled_to_the_published_norm(kernel_size: int | tuple[int, int], norm: float) -> None:
    layer = SOC(6, 6, kernel_size, groups=3, dtype=torch.float64, **PUBLISHED)
    layer.weight.data[2:4] *= 1e3
    layer.weight.data[4:] *= 1e-3
    for group in fantastic_four(layer.eval().filter(), 3):
        assert min(map(spectral_norm, group)) == pytest.approx(norm, rel=1e-12)
    # The estimate of training arrives at the same scale.
    for _ in range(50):
        touch(layer)
        layer.train()(torch.zeros(1, 6, 4, 4, dtype=torch.float64))
    for group in fantastic_four(layer.filter(), 3):
        assert min(map(spectral_norm, group)) == pytest.approx(norm, rel=0.05)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, (3, 1), (1, 5)])
def test_each_groups_jacobian_is_scaled_to_its_norm(kernel_size: int | tuple[int, int]) -> None:
    layer = SOC(6, 6, kernel_size, groups=3, dtype=torch.float64)
    layer.weight.data[2:4] *= 1e3
    layer.weight.data[4:] *= 1e-3

    def norms() -> list[float]:
        """Return the norm of each group's circular convolution on the 8 x 8 maps of the estimate."""
        groups = layer.filter().split(2)
        return [spectral_norm(convolution_matrix(group, 8, 8, padding_mode="circular")) for group in groups]

    # The estimate is from below, and a little of fixed vectors is mixed into those that attain the norm.
    layer.eval()
    assert all(1.4 * (1 - 1e-12) <= norm <= 1.4 * (1 + 1e-5) for norm in norms())
    for _ in range(50):
        touch(layer)
        layer.train()(torch.zeros(1, 6, 4, 4, dtype=torch.float64))
    assert all(1.4 * (1 - 1e-12) <= norm <= 1.4 * 1.05 for norm in norms())


@pytest.mark.cover(1)
@pytest.mark.parametrize("fill", [random_weights, rank_one_weights, decoupled_weights, symmetric_weights])
@pytest.mark.parametrize("scale", [0.0, 1e-15, 1e-3, 1.0, 1e3, 1e15])
@pytest.mark.parametrize("settings", SETTINGS)
def test_at_every_scale_and_for_degenerate_weights(
    settings: dict[str, Any], scale: float, fill: Callable[[torch.Tensor, float], None]
) -> None:
    layer = SOC(**settings, dtype=torch.float64)
    with torch.no_grad():
        fill(layer.weight, scale)
    assert_guaranteed(layer)


OPTIMISED: list[tuple[type[SOC] | type[SOCTranspose], dict[str, Any]]] = [
    *((SOC, settings) for settings in SETTINGS),
    *(
        (kind, {"in_channels": 4, "out_channels": 2, "padding_mode": mode, "engine": engine, "scaling": scaling})
        for kind, scaling in ((SOC, "reshaped"), (SOCTranspose, "jacobian"), (SOC1d, "jacobian"))
        for mode, engine in PATHS
    ),
]


@pytest.mark.cover(0)
@pytest.mark.parametrize(("kind", "settings"), OPTIMISED)
def test_after_optimisation_steps_with_a_large_learning_rate(
    kind: type[SOC] | type[SOCTranspose], settings: dict[str, Any]
) -> None:
    layer = kind(**settings, dtype=torch.float64)
    start = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0, momentum=0.9)
    x = torch.randn(4, layer.in_channels, *((4,) if kind is SOC1d else (4, 4)), dtype=torch.float64)
    target = 100 * torch.randn_like(layer(x))
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(x), target).backward()
        optimizer.step()
        assert_guaranteed(layer)
        layer.train()
    assert (layer.weight - start).abs().max() > 1


@pytest.mark.cover(1)
@pytest.mark.parametrize("garbage", [0.0, 1e-300, 1e300, "random", "one entry", math.inf, math.nan])
@pytest.mark.parametrize("settings", SETTINGS[:5])
def test_with_garbage_in_the_buffers_of_the_estimate(settings: dict[str, Any], garbage: float | str) -> None:
    layer = SOC(**settings, dtype=torch.float64)
    layer.weight.data[0] *= 100
    clean = layer.eval()(x := torch.randn(1, layer.in_channels, 4, 4, dtype=torch.float64))
    for vectors in vectors_of(layer):
        if garbage == "random":
            vectors.normal_()
        elif garbage == "one entry":
            vectors.zero_()[:, -1:] = 1
        else:
            vectors.fill_(garbage)
    assert torch.equal(layer(x), clean)
    assert layer.lipschitz_bound() == 1.0
    # In training, an infinite bound is not enough: the layer must recover.
    for _ in range(3):
        assert_guaranteed(layer)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_an_estimate_that_is_too_small_raises_the_bound_of_training(scaling: str) -> None:
    layer = SOC(6, 6, engine="series", scaling=scaling, dtype=torch.float64)
    with torch.no_grad():
        # One large pair of channels among zeros: the vectors of the others see nothing of it.
        layer.weight.mul_(1e-3)
        layer.weight[0, 1] += 1
        for vectors in vectors_of(layer):
            vectors.view(6, -1)[:2] = 0
    bound = layer.lipschitz_bound()
    assert bound > 1.01
    assert gain(layer) <= bound
    assert layer.eval().lipschitz_bound() == 1.0


@pytest.mark.cover(1)
@pytest.mark.parametrize("terms", [1, 3, 4, 5, 6, 8, 12])
@pytest.mark.parametrize("channels", [4, 40])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_bound_of_every_number_of_terms_holds_and_is_not_vacuous(scaling: str, channels: int, terms: int) -> None:
    settings = {"engine": "series", "series": "taylor", "scaling": scaling, "dtype": torch.float64}
    layer = SOC(channels, channels, eval_terms=terms, **settings).eval()
    jacobian = dense_jacobian(layer, torch.randn(1, channels, 3, 3, dtype=torch.float64))
    # The gain can be no larger than up to the norm of J on maps of any size, which is bounded within a few per cent.
    t = np.linspace(0, symbol_supremum(layer.filter(), points=32) * 1.05, 10001)
    largest = np.abs(sum((1j * t) ** degree / math.factorial(degree) for degree in range(terms + 1))).max()
    assert spectral_norm(jacobian) <= layer.lipschitz_bound() * (1 + 1e-13)
    assert layer.lipschitz_bound() <= largest * (1 + 1e-6)


@pytest.mark.parametrize("terms", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_number_of_chebyshev_terms_is_a_contraction_in_evaluation(scaling: str, terms: int) -> None:
    layer = SOC(4, 4, engine="series", scaling=scaling, eval_terms=terms, dtype=torch.float64)
    layer.weight.data *= 1e3
    assert_guaranteed(layer)


def test_the_published_numbers_of_terms_are_contractions_in_evaluation() -> None:
    for terms in (4, 8, 12):
        layer = SOC(16, 32, stride=2, **{**PUBLISHED, "eval_terms": terms}).eval()
        assert layer.lipschitz_bound() == 1.0


def of_a_matrix(coefficients: tuple[float, ...], matrix: Matrix) -> Matrix:
    result = np.zeros_like(matrix)
    for coefficient in reversed(coefficients):
        result = result @ matrix + coefficient * np.eye(len(matrix))
    return result


@pytest.mark.parametrize("settings", SETTINGS)
def test_in_single_precision(settings: dict[str, Any]) -> None:
    layer = SOC(**settings).eval()
    jacobian = dense_jacobian(layer, x := torch.randn(1, layer.in_channels, 6, 4))
    assert spectral_norm(jacobian) <= layer.lipschitz_bound() * (1 + 1e-5)
    # Applied exactly, the cached float32 operands satisfy the bound without a tolerance.
    with torch.no_grad():
        layer(x)
    prepared = layer.prepared()
    matrix = convolution_matrix(prepared.factored, 6, 4, layer.active_groups, layer.padding_mode)
    polynomial = of_a_matrix(prepared.series.coefficients, matrix)
    assert spectral_norm(polynomial) <= layer.lipschitz_bound() * (1 + 1e-13)
    exact = [tensor for (kind, _), tensor in prepared.constants.items() if kind != "series"]
    assert len(exact) == (settings.get("engine") != "series")
    for matrices in exact:
        assert matrices.dtype in (torch.float32, torch.complex64)
        norms = torch.linalg.svdvals(matrices.to(torch.promote_types(matrices.dtype, torch.float64)))
        assert 1 - 1e-5 <= norms.min() <= norms.max() <= 1


@pytest.mark.cover(1)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_weights_that_are_not_finite_have_an_infinite_bound(
    scaling: str, dtype: torch.dtype, value: float, training: bool
) -> None:
    for padding_mode, engine in PATHS:
        layer = SOC(4, 4, padding_mode=padding_mode, engine=engine, scaling=scaling, dtype=dtype).train(training)
        layer.weight.data[1, 2, 0, 0] = value
        assert layer.lipschitz_bound() == math.inf
        with torch.no_grad():
            assert not layer(torch.randn(1, 4, 3, 3, dtype=dtype)).isfinite().any()
    head = SOCLinear(4, 3, scaling=scaling, dtype=dtype).train(training)
    head.weight.data[1, 2] = value
    assert head.lipschitz_bound() == math.inf


@pytest.mark.parametrize("settings", SETTINGS)
def test_pairs_of_inputs_never_move_apart(settings: dict[str, Any]) -> None:
    layer = SOC(**settings, dtype=torch.float64).eval()
    x, y = torch.randn(2, 50, layer.in_channels, 6, 4, dtype=torch.float64)
    with torch.no_grad():
        moved = (layer(x) - layer(y)).flatten(1).norm(dim=1)
    assert (moved <= layer.lipschitz_bound() * (x - y).flatten(1).norm(dim=1) * (1 + 1e-13)).all()


@pytest.mark.parametrize("scaling", ["jacobian", "reshaped"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_in_training_is_about_the_filter_that_is_convolved(seed: int, scaling: str) -> None:
    """Scaling to the target first and by the factor then, in float32, rounds the filter to another one."""
    torch.manual_seed(seed)
    layer = SOC(4, 4, train_terms=2, series="taylor", scaling=scaling).train()
    convolved = []
    multiply = layer.scaling.training_step

    def record(weight: torch.Tensor, factor: float, frozen: bool) -> torch.Tensor:
        convolved.append(multiply(weight, factor, frozen))
        return convolved[-1]

    layer.scaling.training_step = record  # type: ignore[method-assign]
    layer(torch.randn(2, 4, 8, 8))
    series = layer._training_series
    bound = polynomial_gain(series.coefficients, norm_bound(convolved[0].detach().double()))
    assert bound > 1
    assert layer.lipschitz_bound() == bound
