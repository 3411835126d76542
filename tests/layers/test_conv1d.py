"""SOC1d and SOCTranspose1d against dense matrices that are written for sequences, and their arguments."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from lipnet.layers import SOC, MaxMin, SOC1d, SOCTranspose, SOCTranspose1d
from lipnet.models.build import build_model
from tests.oracles import Matrix, dense_jacobian, exponential, spectral_norm, ungrouped_filter

# (channels in, channels out) of SOC1d for stride 1 and for stride 3, where the channels in count three times.
EQUAL, MORE, FEWER = {1: (4, 4), 3: (2, 6)}, {1: (2, 6), 3: (1, 6)}, {1: (6, 4), 3: (2, 4)}
PRECISE = {"eval_tolerance": 1e-13, "dtype": torch.float64}
LENGTH = 5
BOTH = [SOC1d, SOCTranspose1d]
STRUCTURES = [
    {"kernel_size": kernel, "stride": stride, "groups": groups, "padding_mode": mode, "engine": engine}
    for kernel, stride, groups, (mode, engine) in product(
        [1, 5],
        [1, 3],
        [1, 2],
        [("zeros", "series"), ("zeros", "dense"), ("circular", "spectral")],
    )
]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def sequence_matrix(weight: Tensor, length: int, groups: int, padding_mode: str) -> Matrix:
    """y[o, u] = sum_{i, a} w[o, i, 0, a] x[i, u + a - floor(k/2)], x being continued by zeros or periodically."""
    full = ungrouped_filter(weight, groups)[:, :, 0]
    channels, _, taps = full.shape
    matrix = np.zeros((channels, length, channels, length))
    for u, a in product(range(length), range(taps)):
        source = u + a - taps // 2
        if 0 <= source < length or padding_mode == "circular":
            matrix[:, u, :, source % length] += full[:, :, a]
    return matrix.reshape(channels * length, channels * length)


def soc1d_matrix(
    weight: Tensor, in_channels: int, out_channels: int, stride: int, groups: int, padding_mode: str
) -> Matrix:
    """The matrix on sequences of LENGTH * stride: entry u s + j of channel i goes to entry u of channel i s + j."""
    channels = len(weight)
    inside = np.zeros((channels, LENGTH, in_channels, LENGTH * stride))
    for i, j, u in product(range(in_channels), range(stride), range(LENGTH)):
        inside[i * stride + j, u, i, u * stride + j] = 1
    rotation = exponential(sequence_matrix(weight, LENGTH, groups, padding_mode))
    return rotation[: out_channels * LENGTH] @ inside.reshape(channels * LENGTH, -1)


@pytest.mark.cover(1)
@pytest.mark.parametrize("channels", [EQUAL, MORE, FEWER], ids=["equal", "more", "fewer"])
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: "-".join(map(str, structure.values())))
def test_jacobians_are_a_matrix_exponential_and_its_transpose(
    structure: dict[str, Any], channels: dict[int, tuple[int, int]]
) -> None:
    inputs, outputs = channels[stride := structure["stride"]]
    layer = SOC1d(inputs, outputs, **structure, **PRECISE).eval()
    transpose = SOCTranspose1d(outputs, inputs, **structure, **PRECISE).eval()
    transpose.weight.data.copy_(layer.weight)
    matrix = soc1d_matrix(layer.filter(), inputs, outputs, stride, structure["groups"], structure["padding_mode"])
    jacobian = dense_jacobian(layer, noise(1, inputs, LENGTH * stride))
    np.testing.assert_allclose(jacobian, matrix, rtol=0, atol=1e-12)
    assert spectral_norm(jacobian) <= layer.lipschitz_bound() * (1 + 1e-13)
    back = dense_jacobian(transpose, noise(1, outputs, LENGTH))
    np.testing.assert_allclose(back, matrix.T, rtol=0, atol=1e-12)
    assert spectral_norm(back) <= transpose.lipschitz_bound() * (1 + 1e-13)


@pytest.mark.parametrize(("kernel_size", "scaling"), [(1, "jacobian"), (3, "reshaped"), (9, "jacobian")])
def test_the_filter_is_skew_and_of_a_size_worth_having(kernel_size: int, scaling: str) -> None:
    layer = SOC1d(6, 6, kernel_size, scaling=scaling, dtype=torch.float64).eval()
    matrix = sequence_matrix(layer.filter(), 12, 1, "circular")
    np.testing.assert_array_equal(matrix, -matrix.T)
    assert 0.7 <= spectral_norm(matrix) <= 2.1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", [{}, {"groups": 2}, {"padding_mode": "circular", "engine": "series"}])
def test_it_is_a_soc_on_maps_of_height_one(settings: dict[str, Any], training: bool) -> None:
    layer = SOC1d(2, 8, 5, stride=2, **settings).train(training)
    maps = SOC(2, 8, (1, 5), stride=(1, 2), **settings).train(training)
    maps.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2, 12)
    assert torch.equal(layer(x), maps(x[:, :, None])[:, :, 0])
    back = SOCTranspose1d(8, 2, 5, stride=2, **settings).train(training)
    back_maps = SOCTranspose(8, 2, (1, 5), stride=(1, 2), **settings).train(training)
    back_maps.load_state_dict(back.state_dict())
    y = torch.randn(3, 8, 6)
    assert torch.equal(back(y), back_maps(y[:, :, None])[:, :, 0])


@pytest.mark.parametrize("settings", [{}, {"groups": 2}, {"kernel_size": 5, "padding_mode": "circular"}])
def test_the_inverse_reconstructs(settings: dict[str, Any]) -> None:
    layer = SOC1d(2, 8, stride=4, **settings, **PRECISE).eval()
    inverse = SOCTranspose1d.inverse_of(layer)
    assert type(inverse) is SOCTranspose1d
    assert inverse.weight is layer.weight
    x, y = noise(3, 2, 16), noise(3, 8, 4)
    torch.testing.assert_close(inverse(layer(x)), x, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer(inverse(y)), y, rtol=0, atol=1e-11)
    linear = SOCTranspose1d.of(layer, bias=True)
    difference = (linear(y) - linear.bias[:, None]) - (inverse(y) - inverse(torch.zeros_like(y)))
    torch.testing.assert_close(difference, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("make", "layer"), [(SOCTranspose1d.of, SOC(2, 2)), (SOCTranspose.of, SOC1d(2, 2))])
def test_each_has_its_own_counterpart(make: Any, layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"is the transpose of a .*, got {type(layer).__name__}$"):
        make(layer)


@pytest.mark.parametrize("layer_class", BOTH)
def test_gradients_reach_the_parameters_and_steps_keep_the_guarantee(layer_class: type[SOC1d | SOCTranspose1d]) -> None:
    layer = layer_class(4, 4, stride=2, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    x = noise(4, 4, 6)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).pow(3).sum().backward()
        assert min(parameter.grad.abs().max() for parameter in layer.parameters()) > 0
        optimizer.step()
        bound = layer.eval().lipschitz_bound()
        assert spectral_norm(dense_jacobian(layer, x[:1])) <= bound * (1 + 1e-13) <= 1 + 1e-12
        layer.train()


def test_gradcheck_in_evaluation() -> None:
    for layer in (SOC1d(2, 4, stride=2, **PRECISE).eval(), SOCTranspose1d(2, 1, stride=2, **PRECISE).eval()):

        def function(x: Tensor, bias: Tensor, layer: nn.Module = layer) -> Tensor:
            return torch.func.functional_call(layer, {"bias": bias}, (x,))

        bias = layer.bias.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(function, (noise(2, 2, 6).requires_grad_(), bias))


def test_a_network_of_sequences_is_certified() -> None:
    encoder = nn.Sequential(SOC1d(1, 4, 5, stride=2), MaxMin(), SOC1d(4, 8, stride=2, groups=2))
    network = nn.Sequential(encoder, MaxMin(), SOCTranspose1d(8, 1, stride=4)).double().eval()
    bound = lipschitz_bound(network)
    assert spectral_norm(dense_jacobian(network, noise(1, 1, 16))) <= bound * (1 + 1e-13) <= 1 + 1e-12


def test_it_is_built_from_a_configuration() -> None:
    config = {"_target_": "lipnet.layers.SOC1d", "in_channels": 2, "out_channels": 4, "kernel_size": [5], "stride": 2}
    layer = build_model(config)
    assert type(layer) is SOC1d
    assert layer(torch.zeros(1, 2, 8)).shape == (1, 4, 4)


@pytest.mark.parametrize(("layer_class", "length"), [(SOC1d, 2), (SOCTranspose1d, 18)])
def test_an_unbatched_input_equals_a_batch_of_one(layer_class: type[SOC1d | SOCTranspose1d], length: int) -> None:
    layer = layer_class(4, 2, stride=3).eval()
    x = torch.randn(4, 6)
    assert layer(x).shape == (2, length)
    assert torch.equal(layer(x), layer(x[None])[0])
    assert layer(x[None][:0]).shape == (0, 2, length)


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"), [(5, 2, 2), ((5,), (2,), (2,)), ([5], [2], [2]), (5, 2, "same")]
)
def test_sizes_are_ints_or_sequences_of_one(
    layer_class: type[SOC1d | SOCTranspose1d], kernel_size: Any, stride: Any, padding: Any
) -> None:
    layer = layer_class(2, 2, kernel_size, stride, padding)
    assert (layer.kernel_size, layer.stride) == ((1, 5), (1, 2))


def test_parameters_and_arguments_are_those_of_their_counterparts() -> None:
    for layer_class, counterpart in ((SOC1d, nn.Conv1d), (SOCTranspose1d, nn.ConvTranspose1d)):
        names = [name for name in inspect.signature(counterpart).parameters if name not in ("device", "dtype")]
        assert list(inspect.signature(layer_class).parameters)[: len(names)] == names
    shapes = {name: value.shape for name, value in SOC1d(2, 8, 5, groups=2).named_parameters()}
    assert shapes == {"weight": (8, 4, 1, 5), "bias": (8,)}


def test_representation() -> None:
    assert SOC1d(2, 4).extra_repr() == "2, 4, kernel_size=3, stride=1"
    layer = SOC1d(2, 4, 5, stride=2, groups=2, bias=False, padding_mode="circular")
    rest = "kernel_size=5, stride=2, groups=2, bias=False, padding_mode='circular'"
    assert layer.extra_repr() == f"2, 4, {rest}"
    assert SOCTranspose1d.of(layer).extra_repr() == f"4, 2, {rest}"


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": (3, 3)}, r"kernel_size must be an int or a sequence of one, got \(3, 3\)"),
        ({"stride": 0}, "stride must be positive, got 0"),
        ({"stride": (1, 2)}, r"stride must be an int or a sequence of one, got \(1, 2\)"),
        ({"padding": 0}, "padding must be 'same', that is 1 for kernel_size 3, got 0"),
        ({"padding": "valid"}, "padding must be 'same', that is 1 for kernel_size 3, got 'valid'"),
        ({"dilation": 2}, "dilation must be 1, got 2"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of .*, got 'reflect'"),
        ({"out_channels": 0}, "channels must be at least 1, got 4 in, 0 out"),
        ({"groups": 3}, r"groups must divide max\(.*stride.*\) = 4, got 3"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused(
    layer_class: type[SOC1d | SOCTranspose1d], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layer_class(**{"in_channels": 4, "out_channels": 4, **settings})


def test_the_channels_that_groups_must_divide_are_explained() -> None:
    with pytest.raises(ValueError, match=r"groups must divide max\(in_channels \* stride, out_channels\) = 8, got 3"):
        SOC1d(2, 4, stride=4, groups=3)
    with pytest.raises(ValueError, match=r"groups must divide max\(in_channels, out_channels \* stride\) = 8, got 3"):
        SOCTranspose1d(4, 2, stride=4, groups=3)


def test_an_output_padding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"output_padding must be 0, .* got 1"):
        SOCTranspose1d(4, 2, stride=4, output_padding=1)


@pytest.mark.parametrize("layer_class", BOTH)
@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 4), (3,), (1, 3, 1, 4)])
def test_inputs_of_another_shape_are_refused(layer_class: type[SOC1d | SOCTranspose1d], shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    needed = rf"{layer_class.__name__} needs an input of shape \(B, 3, L\) or \(3, L\), got \({received},?\)"
    with pytest.raises(ValueError, match=needed):
        layer_class(3, 3)(torch.zeros(shape))


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="SOC1d with stride 2 needs a length divisible by it, got 5"):
        SOC1d(1, 2, stride=2)(torch.zeros(1, 1, 5))
    layer = SOC1d(1, 2, 5, stride=2, padding_mode="circular")
    assert layer(torch.zeros(1, 1, 4)).shape == (1, 2, 2)
    for tied, shortest, length in ((layer, 4, 2), (SOCTranspose1d.of(layer), 2, 1)):
        name = type(tied).__name__
        message = f"{name} with circular padding needs a length of at least {shortest} for its kernel, got {length}"
        with pytest.raises(ValueError, match=message):
            tied(torch.zeros(1, tied.in_channels, length))
