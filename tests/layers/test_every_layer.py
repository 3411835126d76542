"""Promises of every convolution of lipnet, tested alike: all layers of the configuration group ``conv``.

What is particular to a layer, above all its formula against dense matrices, is in the layer's own file.
"""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.layer_list import layer_class, layer_factory, layer_names
from lipnet.certify import certify
from lipnet.layers import (
    AOLLinear,
    BROLinear,
    CayleyLinear,
    Cholesky,
    GroupAndShuffle,
    MaxMinPermuted,
    NormalizedLinear,
    Sandwich,
    SOCLinear,
    export,
)
from lipnet.layers.base import LipschitzModule
from lipnet.layers.explicit import explicit_products
from lipnet.models import LipConvNet
from tests.oracles import Matrix, dense_jacobian, spectral_norm
from tests.properties.cases import KINDS, Fill, drawn

NAMES = layer_names()
# Singular values with circular padding: all are 1, up to this tolerance in float64.
ORTHOGONAL = {"soc": 2e-4, "cayley": 1e-6, "lot": 1e-4, "bcop": 1e-6, "aoc": 1e-6, "bro": 1e-3}
CIRCULAR_ONLY = {"cayley", "lot", "bro"}
# How far the bound of an evaluation may exceed 1. The series of SOC is made for the expected norm, not the proven one.
SLACK = dict.fromkeys(NAMES, 1e-6) | {"soc": 1e-4}
POWER_ITERATION = {"soc", "cpl"}
# Layers of max(in, out) channels.
PADDED = {"soc", "cpl", "sll"}
SIZE = (4, 6)
# Channels in and out, and the stride.
SHAPES = [((4, 4), 1), ((2, 4), 1), ((4, 2), 1), ((2, 4), 2), ((4, 4), 2)]

every_layer = pytest.mark.parametrize("name", NAMES)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def point(channels: int, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def jacobian(layer: nn.Module, channels: int, size: tuple[int, int] = SIZE) -> Matrix:
    return dense_jacobian(layer, point(channels, size))


def padding_modes(name: str) -> list[str]:
    return ["circular"] if name in CIRCULAR_ONLY else ["zeros", "circular"]


def weights_of(layer: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in layer.named_parameters() if not name.endswith("bias")]


def refill(layer: nn.Module, fill: Fill, scale: float) -> None:
    """Replace all weights by hostile ones, whatever their number of dimensions."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in weights_of(layer):
            shape = (*parameter.shape, *[1] * (4 - parameter.dim())) if parameter.dim() < 4 else tuple(parameter.shape)
            parameter.copy_(scale * drawn(fill, shape[:4], generator).reshape(parameter.shape))


def perturb(layer: nn.Module) -> None:
    """Add noise to all weights: some layers start at the identity, and some do not depend on the scale."""
    for parameter in weights_of(layer):
        parameter.data.add_(torch.randn_like(parameter))


def test_the_tables_of_this_file_name_layers() -> None:
    assert set(ORTHOGONAL) | CIRCULAR_ONLY <= {*NAMES, "cayley", "lot", "bcop", "aoc", "bro"}
    assert set(ORTHOGONAL) >= CIRCULAR_ONLY


@every_layer
def test_a_layer_bounds_itself(name: str) -> None:
    kind = layer_class(name)
    assert issubclass(kind, LipschitzModule)
    assert kind.__module__.startswith("lipnet.layers.")


@pytest.mark.cover(2)
@every_layer
@both_modes
@pytest.mark.parametrize(("channels", "stride"), SHAPES)
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_shapes_and_bounds(
    name: str,
    training: bool,
    channels: tuple[int, int],
    stride: int,
    kernel_size: int,
    padding: int,
) -> None:
    mode = padding_modes(name)[-padding]
    make = layer_factory(name)
    layer = make(*channels, kernel_size, stride, padding_mode=mode, dtype=torch.float64).train(training)
    size = (stride * SIZE[0], stride * SIZE[1])
    matrix = jacobian(layer, channels[0], size)
    assert matrix.shape == (channels[1] * math.prod(SIZE), channels[0] * math.prod(size))
    bound = layer.lipschitz_bound()
    assert spectral_norm(matrix) <= bound * (1 + 1e-12) < 2
    assert training or bound <= 1 + SLACK[name]


@pytest.mark.parametrize("name", [name for name in NAMES if name in ORTHOGONAL])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_orthogonal_layers_keep_every_norm(name: str, kernel_size: int) -> None:
    layer = layer_factory(name)(4, 4, kernel_size, padding_mode="circular", dtype=torch.float64).eval()
    values = np.linalg.svd(jacobian(layer, 4), compute_uv=False)
    assert np.abs(values - 1).max() <= ORTHOGONAL[name]


@every_layer
def test_the_bound_in_float32_is_one_up_to_rounding(name: str) -> None:
    layer = layer_factory(name)(8, 8).eval()
    assert spectral_norm(dense_jacobian(layer, point(8, SIZE, torch.float32))) <= layer.lipschitz_bound() * (1 + 1e-6)
    assert layer.lipschitz_bound() <= 1 + SLACK[name]


@pytest.mark.cover(2)
@every_layer
@both_modes
@pytest.mark.parametrize("fill", KINDS, ids=lambda fill: fill.__name__)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_bound_holds_for_hostile_weights(name: str, training: bool, fill: Fill, scale: float, groups: int) -> None:
    layer = layer_factory(name)(4, 4, groups=groups, dtype=torch.float64).train(training)
    refill(layer, fill, scale)
    matrix = jacobian(layer, 4)
    bound = layer.lipschitz_bound()
    if not np.isfinite(matrix).all():
        assert bound == math.inf
    elif bound < math.inf:
        assert spectral_norm(matrix) <= bound * (1 + 1e-12)


@every_layer
@both_modes
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_have_no_bound(name: str, training: bool, value: float) -> None:
    layer = layer_factory(name)(4, 4).train(training)
    with torch.no_grad():
        weights_of(layer)[0].view(-1)[0] = value
    assert layer.lipschitz_bound() == math.inf


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        (name, channels, stride)
        for name in NAMES
        for channels, stride in (((4, 4), 1), ((4, 8), 1), ((4, 8), 2), ((2, 8), 2))
        # With zero channels appended to the last group, groups of the input are not groups of the output.
        if name not in PADDED or channels[0] * stride**2 == channels[1]
    ],
)
def test_groups_are_blocks(name: str, channels: tuple[int, int], stride: int) -> None:
    layer = layer_factory(name)(*channels, 3, stride, groups=2, dtype=torch.float64).eval()
    perturb(layer)
    matrix = jacobian(layer, channels[0], (4, 4))
    first, second = (np.split(rows, 2, axis=1) for rows in np.split(matrix, 2))
    assert not first[1].any()
    assert not second[0].any()
    norms = [spectral_norm(first[0]), spectral_norm(second[1])]
    assert 0 < min(norms) <= max(norms) <= layer.lipschitz_bound() * (1 + 1e-12)
    assert not np.array_equal(first[0], second[1]), "each group has weights of its own"


@pytest.mark.cover(0)
@every_layer
@pytest.mark.parametrize("groups", [1, 2])
def test_the_guarantee_holds_after_optimizer_steps(name: str, groups: int) -> None:
    layer = layer_factory(name)(4, 4, groups=groups, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
    x, target = torch.randn(4, 4, *SIZE, dtype=torch.float64), torch.randn(4, 4, *SIZE, dtype=torch.float64)
    before = [parameter.clone() for parameter in layer.parameters()]
    for _ in range(50):
        optimizer.zero_grad()
        (layer(x) - target).square().sum(1).mean().backward()
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    for training in (True, False):
        layer.train(training)
        matrix = jacobian(layer, 4)
        assert spectral_norm(matrix) <= layer.lipschitz_bound() * (1 + 1e-12)
    assert layer.lipschitz_bound() <= 1 + SLACK[name]


@pytest.mark.parametrize(
    ("name", "training"),
    # A step of power iteration in each call of a training changes a buffer: see the files of these layers.
    [(name, training) for name in NAMES for training in (True, False) if not (training and name in POWER_ITERATION)],
)
def test_gradients(name: str, training: bool) -> None:
    layer = layer_factory(name)(2, 2, dtype=torch.float64).train(training)
    names, values = zip(*copy.deepcopy(layer).named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        return result

    x = point(2, (3, 4)).requires_grad_()
    # The norm is a function of vectors that have converged to some digits only.
    tolerance = 1e-3 if name in POWER_ITERATION else 1e-5
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True, atol=tolerance, rtol=tolerance)


@every_layer
@both_modes
def test_gradients_reach_every_parameter(name: str, training: bool) -> None:
    layer = layer_factory(name)(4, 4).train(training)
    layer(torch.randn(2, 4, *SIZE)).square().sum().backward()
    for path, parameter in layer.named_parameters():
        assert parameter.grad is not None, path
        assert bool(parameter.grad.isfinite().all()), path


@every_layer
def test_copies_pickles_and_state_dicts_compute_the_same(name: str) -> None:
    layer, other = layer_factory(name)(4, 4).eval(), layer_factory(name)(4, 4).eval()
    perturb(other)
    x = torch.randn(2, 4, *SIZE)
    with torch.no_grad():
        expected, different = layer(x), other(x)
        assert not torch.equal(expected, different)
        other.load_state_dict(layer.state_dict())
        for each in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
            assert torch.equal(each(x), expected)
            assert each.lipschitz_bound() == layer.lipschitz_bound()


@every_layer
def test_evaluation_notices_changed_weights(name: str) -> None:
    layer = layer_factory(name)(4, 4, dtype=torch.float64).eval()
    x = point(4)
    with torch.no_grad():
        before = layer(x)
        perturb(layer)
        assert not torch.allclose(layer(x), before)


@every_layer
def test_evaluation_in_float32_is_near_that_in_float64(name: str) -> None:
    layer = layer_factory(name)(8, 8, dtype=torch.float64).eval()
    x = point(8)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(layer).float()(x.float()), layer(x).float(), rtol=1e-4, atol=1e-4)


@every_layer
@both_modes
def test_one_sample_and_no_sample(name: str, training: bool) -> None:
    layer = layer_factory(name)(4, 8, stride=2).eval()
    x = torch.randn(3, 4, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(layer(x[1]), layer(x)[1])
        assert layer.train(training)(x[:0]).shape == (0, 8, SIZE[0] // 2, SIZE[1] // 2)


def run_half(layer: nn.Module, x: Tensor, training: bool) -> None:
    y = layer.train(training)(x)
    assert y.dtype == x.dtype
    assert bool(y.isfinite().all())
    y.float().sum().backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in layer.parameters() if weight.grad is not None)


@both_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_layer
def test_half_precision_is_built_trained_and_evaluated(name: str, dtype: torch.dtype, training: bool) -> None:
    layer = layer_factory(name)(4, 4, kernel_size=3, dtype=dtype)
    run_half(layer, torch.rand(2, 4, 6, 6, dtype=dtype), training)
    assert layer.lipschitz_bound() < 1.1


@both_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [AOLLinear, BROLinear, CayleyLinear, Cholesky, NormalizedLinear, Sandwich, SOCLinear])
def test_linear_layers_work_in_half_precision(kind: Any, dtype: torch.dtype, training: bool) -> None:
    run_half(kind(6, 4, dtype=dtype), torch.rand(2, 6, dtype=dtype), training)


# Evaluation of the others reads values of the weight, such as the norm that a series is made for.
BATCHED = {"aol", "aoc", "bcop", "cpl", "sll"}


@both_modes
@every_layer
def test_models_are_run_together_by_vmap_or_refused(name: str, training: bool) -> None:
    layers = [layer_factory(name)(4, 4, kernel_size=3).train(training) for _ in range(2)]
    x = torch.rand(2, 4, 6, 6)
    parameters, buffers = torch.func.stack_module_state(layers)

    def run(parameters: Any, buffers: Any) -> Tensor:
        result: Tensor = torch.func.functional_call(layers[0], (parameters, buffers), (x,))
        return result

    with torch.no_grad():
        if not training and name not in BATCHED:
            with pytest.raises(RuntimeError, match=r"cannot be evaluated by torch\.func\.vmap over its weights"):
                torch.func.vmap(run)(parameters, buffers)
            return
        expected = torch.stack([copy.deepcopy(layer)(x) for layer in layers])
        torch.testing.assert_close(torch.func.vmap(run)(parameters, buffers), expected, rtol=0, atol=1e-5)


@every_layer
def test_autocast_trains(name: str) -> None:
    layer = layer_factory(name)(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(torch.randn(2, 4, *SIZE).bfloat16())
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    assert all(each is not None and bool(each.isfinite().all()) for each in gradients)


@pytest.mark.cover(0)
@every_layer
def test_export_computes_the_same(name: str) -> None:
    layer = layer_factory(name)(4, 8, stride=2).eval()
    model = nn.Sequential(layer, MaxMinPermuted()).eval()
    plain = export(model, (4, *SIZE))
    x = torch.randn(3, 4, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)
    sources = {type(module).__module__ for module in plain.modules()}
    assert not any(source.startswith("lipnet") for source in sources)


@pytest.mark.slow
@every_layer
@both_modes
def test_compilation_computes_the_same(name: str, training: bool) -> None:
    layer = layer_factory(name)(4, 4).train(training)
    compiled = torch.compile(copy.deepcopy(layer))
    x = torch.randn(2, 4, *SIZE)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every_layer
def test_a_training_step_compiles_as_one_graph(name: str) -> None:
    """``compile=`` of train.py needs it."""
    layer = layer_factory(name)(4, 4)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="eager")
    x = torch.randn(2, 4, *SIZE)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)


@every_layer
def test_explicit_products_are_near_and_their_rounding_is_bounded(name: str) -> None:
    conv = layer_factory(name)
    model = LipConvNet(3, depth=2, stages=2, initial_channels=4, in_channels=2, image_size=8, conv=conv, head=SOCLinear)
    model = model.double().eval()
    images = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    certificates = certify(model, images, model(images).argmax(1))
    with torch.no_grad(), explicit_products(model):
        explicit = model(images)
    assert bool((certificates.radius > 0).all())
    torch.testing.assert_close(explicit, model(images), rtol=0, atol=1e-4)


@every_layer
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "channels must be at least 1, got 0"),
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"stride": 0}, "stride must be positive, got 0"),
        ({"padding": 0}, "padding must be 'same', .* got 0"),
        ({"padding": "valid"}, "padding must be 'same', .* got 'valid'"),
        ({"padding_mode": "reflect"}, "padding_mode must be .*, got 'reflect'"),
        ({"groups": 3}, "groups must divide .*, got 3"),
        ({"groups": 0}, "groups must divide .*, got 0"),
        ({"dilation": 0}, "dilation must be .*, got 0"),
    ],
)
def test_invalid_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_factory(name)(**{"in_channels": 4, "out_channels": 4, **settings})


@every_layer
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4), (1, 4, 4, 4, 4)])
def test_inputs_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{layer_class(name).__name__} needs an input of shape \(B, 4, H, W\)"):
        layer_factory(name)(4, 4)(torch.zeros(shape))


@every_layer
def test_sizes_that_the_stride_does_not_divide_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="with stride 2 needs height and width divisible by it, got 5 x 4"):
        layer_factory(name)(4, 4, stride=2)(torch.zeros(1, 4, 5, 4))


@every_layer
@both_modes
@pytest.mark.parametrize("groups", [(2, None), (2, 1)])
def test_group_and_shuffle_over_a_layer_is_bounded(name: str, training: bool, groups: tuple[int, int | None]) -> None:
    make = layer_factory(name)
    layer = GroupAndShuffle(4, 8, 3, 2, groups=groups, layer=make, dtype=torch.float64).train(training)
    matrix = jacobian(layer, 4, (4, 4))
    assert spectral_norm(matrix) <= layer.lipschitz_bound() * (1 + 1e-12) < 2
    assert training or layer.lipschitz_bound() <= (1 + SLACK[name]) ** 2
    assert GroupAndShuffle(3, 8, groups=(4, 4), layer=make)(torch.zeros(1, 3, 4, 4)).shape == (1, 8, 4, 4)
