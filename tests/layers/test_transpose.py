"""SOCTranspose against the transposed matrix of a SOC, and as its inverse."""

from __future__ import annotations

import copy
import inspect
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from lipnet.layers import SOC, MaxMin, SOCLinear, SOCTranspose
from tests.oracles import dense_jacobian, skew_orthogonal_matrix, spectral_norm

# (channels in, channels out) for stride 1 and for stride 2, where the channels out count four times.
EQUAL, MORE, FEWER = {1: (4, 4), 2: (8, 2)}, {1: (2, 6), 2: (2, 1)}, {1: (6, 4), 2: (6, 1)}
SIZE = (3, 2)
# Polynomials closer to the exponential than the tests look.
PRECISE = {"eval_tolerance": 1e-13, "dtype": torch.float64}

# in channels, out channels, other settings of a SOC that loses no channels.
INJECTIVE: list[tuple[int, int, dict[str, Any]]] = [
    (4, 4, {}),
    (2, 8, {"stride": 2}),
    (3, 6, {"stride": (1, 2), "kernel_size": (3, 5), "padding_mode": "circular"}),
    (4, 4, {"kernel_size": 1, "groups": 2}),
    (1, 8, {"stride": 2, "groups": 2}),
    (3, 8, {"groups": 4, "engine": "dense"}),
]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def evaluated(*channels: int, **settings: Any) -> SOCTranspose:
    return SOCTranspose(*channels, **{**PRECISE, **settings}).eval()


@pytest.mark.cover(2)
@pytest.mark.parametrize("kernel_size", [1, (3, 1)])
@pytest.mark.parametrize("channels", [EQUAL, MORE, FEWER], ids=["equal", "more", "fewer"])
@pytest.mark.parametrize(
    ("padding_mode", "engine"),
    [("zeros", "series"), ("zeros", "dense"), ("circular", "series"), ("circular", "spectral")],
)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_jacobian_is_the_transposed_matrix_exponential(
    stride: int,
    groups: int,
    padding_mode: str,
    engine: str,
    channels: dict[int, tuple[int, int]],
    kernel_size: int | tuple[int, int],
) -> None:
    inputs, outputs = channels[stride]
    structure = {"stride": stride, "groups": groups, "padding_mode": padding_mode}
    layer = evaluated(inputs, outputs, kernel_size, engine=engine, **structure)
    large = (SIZE[0] * stride, SIZE[1] * stride)
    expected = skew_orthogonal_matrix(layer.filter(), outputs, inputs, large, **structure).T
    jacobian = dense_jacobian(layer, noise(1, inputs, *SIZE))
    np.testing.assert_allclose(jacobian, expected, rtol=0, atol=1e-12)
    assert spectral_norm(jacobian) <= layer.lipschitz_bound() * (1 + 1e-13)


@pytest.mark.cover(1)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scaling", ["jacobian", "reshaped"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "settings"),
    [
        *INJECTIVE,
        (8, 3, {"stride": 2, "series": "taylor", "train_terms": 5, "eval_terms": 12}),
        (16, 6, {"groups": 4}),
        (5, 16, {"groups": 4, "recompute": True}),
        (3, 7, {"stride": (2, 1)}),
    ],
)
def test_it_is_the_adjoint_of_the_layer_with_the_same_state(
    inputs: int, outputs: int, settings: dict[str, Any], scaling: str, training: bool
) -> None:
    """<A x, y> = <x, A^T y>, in training too, where p(-J) is the transpose of p(J)."""
    settings = {**settings, "scaling": scaling, "bias": False, "dtype": torch.float64}
    layer = SOC(inputs, outputs, **settings).train(training)
    transpose = SOCTranspose(outputs, inputs, **settings).train(training)
    transpose.load_state_dict(layer.state_dict())
    assert transpose.active_groups == layer.active_groups
    x = noise(2, inputs, 6, 4)
    result = layer(x)
    y = torch.randn_like(result)
    back = transpose(y)
    assert back.shape == x.shape
    torch.testing.assert_close((result * y).sum(), (x * back).sum(), rtol=1e-12, atol=1e-12)
    assert transpose.lipschitz_bound() == layer.lipschitz_bound()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "settings"), INJECTIVE)
def test_the_inverse_reconstructs(inputs: int, outputs: int, settings: dict[str, Any], bias: bool) -> None:
    layer = SOC(inputs, outputs, bias=bias, **settings, **PRECISE).eval()
    inverse = SOCTranspose.inverse_of(layer)
    x = noise(3, inputs, 6, 4)
    torch.testing.assert_close(inverse(layer(x)), x, rtol=0, atol=1e-11)
    torch.testing.assert_close(inverse(layer(x[0])), x[0], rtol=0, atol=1e-11)
    if inputs * layer.stride[0] * layer.stride[1] == outputs:
        y = torch.randn_like(layer(x))
        torch.testing.assert_close(layer(inverse(y)), y, rtol=0, atol=1e-11)


@pytest.mark.parametrize("engine", ["series", "dense"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_the_inverse_is_as_good_as_the_tolerance_says(tolerance: float, engine: str) -> None:
    layer = SOC(2, 8, stride=2, eval_tolerance=tolerance, engine=engine, dtype=torch.float64).eval()
    inverse = SOCTranspose.inverse_of(layer)
    deviation = dense_jacobian(nn.Sequential(layer, inverse), noise(1, 2, 6, 6)) - np.eye(72)
    assert spectral_norm(deviation) <= (2 * tolerance if engine == "series" else 1e-13)


def test_the_inverse_in_training_and_in_single_precision() -> None:
    layer = SOC(2, 8, stride=2)
    x = torch.randn(4, 2, 8, 8)
    inverse = SOCTranspose.inverse_of(layer)
    assert inverse.training
    assert (inverse(layer(x)) - x).norm() <= 2 * layer.train_tolerance * x.norm()
    layer.eval(), inverse.eval()
    assert (inverse(layer(x)) - x).norm() <= (2 * layer.eval_tolerance + 1e-5) * x.norm()


def test_a_layer_that_loses_channels_undoes_its_transpose() -> None:
    layer = SOC(4, 6, stride=2, bias=False, **PRECISE).eval()
    y = noise(2, 6, 3, 2)
    torch.testing.assert_close(layer(SOCTranspose.of(layer)(y)), y, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match=r"loses channels .* SOC\(4, 6, .*keeps 6 of 16 channels after space-to-depth"):
        SOCTranspose.inverse_of(layer)


@pytest.mark.parametrize("layer", [SOCLinear(4, 4), nn.Conv2d(4, 4, 3), SOCTranspose(4, 4)])
@pytest.mark.parametrize("make", [SOCTranspose.of, SOCTranspose.inverse_of])
def test_only_a_soc_has_a_transpose(make: Any, layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"SOCTranspose is the transpose of a SOC, got {type(layer).__name__}"):
        make(layer)


def test_a_transpose_has_the_options_of_its_layer() -> None:
    options: dict[str, Any] = {
        "engine": "series",
        "series": "taylor",
        "scaling": "reshaped",
        "train_terms": 5,
        "eval_terms": 12,
        "train_tolerance": 0.1,
        "eval_tolerance": 1e-3,
        "recompute": True,
    }
    keywords = inspect.signature(SOC.__init__).parameters.values()
    named = {each.name for each in keywords if each.kind is inspect.Parameter.KEYWORD_ONLY} - {"device", "dtype"}
    assert set(options) == named
    layer = SOC(2, 8, (3, 5), (2, 1), groups=2, padding_mode="circular", **options)
    transpose = SOCTranspose.of(layer)
    for name in (set(options) - {"scaling"}) | {"kernel_size", "stride", "groups", "padding_mode", "channels"}:
        assert getattr(transpose, name) == getattr(layer, name)
    assert transpose.scaling is layer.scaling
    assert (transpose.in_channels, transpose.out_channels, transpose.bias) == (8, 2, None)


def test_the_gradient_of_a_tied_weight_is_the_sum_over_both_layers() -> None:
    layer = SOC(2, 6, stride=2, dtype=torch.float64).eval()
    tied = nn.Sequential(layer, SOCTranspose.of(layer, bias=True))
    assert {name for name, _ in tied.named_parameters()} == {"0.weight", "0.bias", "1.bias"}
    apart = nn.Sequential(copy.deepcopy(tied[0]), copy.deepcopy(tied[1]))
    x, factors = noise(3, 2, 4, 4), noise(3, 2, 4, 4)
    for pair in (tied, apart):
        (pair(x) * factors).sum().backward()
    assert min(part.weight.grad.abs().max() for part in apart) > 0
    total = apart[0].weight.grad + apart[1].weight.grad
    torch.testing.assert_close(layer.weight.grad, total, rtol=1e-12, atol=1e-14)


def test_ties_survive_what_models_go_through() -> None:
    layer = SOC(2, 8, stride=2, eval_tolerance=1e-13)
    pair = nn.Sequential(layer, SOCTranspose.inverse_of(layer))
    optimizer = torch.optim.SGD(pair.parameters(), lr=1.0)
    pair(torch.randn(2, 2, 4, 4)).pow(3).sum().backward()
    optimizer.step()
    moved = copy.deepcopy(pair).double().eval()
    moved.load_state_dict(nn.Sequential(other := SOC(2, 8, stride=2), SOCTranspose.inverse_of(other)).state_dict())
    with torch.no_grad():
        moved[0].bias.add_(1)
    x = noise(2, 2, 4, 4)
    torch.testing.assert_close(moved(x), x, rtol=0, atol=1e-11)
    assert moved[1].weight is moved[0].weight
    assert moved[1].scaling is moved[0].scaling
    assert moved[1].input_bias is moved[0].bias
    torch.testing.assert_close(moved[1].weight, other.weight.double(), rtol=0, atol=0)
    assert not torch.equal(layer.weight, other.weight)


@pytest.mark.parametrize(
    ("engine", "settings"),
    [
        ("series", {}),
        ("dense", {"stride": 2, "groups": 2}),
        ("dense", {"kernel_size": 1}),
        ("spectral", {"padding_mode": "circular"}),
    ],
)
def test_gradients_in_evaluation(engine: str, settings: dict[str, Any]) -> None:
    layer = evaluated(4, 2, engine=engine, **settings)
    adjoint = SOC(2, 4, bias=False, engine=engine, **settings, **PRECISE).eval()
    adjoint.weight.data.copy_(layer.weight)
    down, across = layer.stride
    x, y = noise(1, 4, 2, 3).requires_grad_(), noise(1, 2, 2 * down, 3 * across).requires_grad_()

    def function(x: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, (x, layer.bias.detach().clone().requires_grad_()))
    # <A^T x, y> = <x, A y> for every weight, so that its gradient is the same.
    backward = torch.autograd.grad((layer(x) * y).sum(), layer.weight)[0]
    forward = torch.autograd.grad((adjoint(y) * x).sum(), adjoint.weight)[0]
    torch.testing.assert_close(backward, forward, rtol=1e-10, atol=1e-12)
    assert backward.abs().max() > 0.01


def test_the_guarantee_holds_after_optimisation_steps() -> None:
    layer = SOCTranspose(6, 2, stride=2, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0, momentum=0.9)
    x = noise(4, 6, 3, 2)
    target, start = 100 * noise(4, 2, 6, 4), layer.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(x), target).backward()
        optimizer.step()
        bound = layer.lipschitz_bound()
        assert spectral_norm(dense_jacobian(layer, x[:1])) <= bound * (1 + 1e-13) < inf
        bound = layer.eval().lipschitz_bound()
        assert spectral_norm(dense_jacobian(layer, x[:1])) <= bound * (1 + 1e-13) <= 1 + 1e-12
        layer.train()
    assert (layer.weight - start).abs().max() > 1


def test_a_network_with_it_is_certified() -> None:
    parts = [SOC(1, 4, stride=2), MaxMin(), SOCTranspose(4, 2, stride=2), MaxMin(), SOCTranspose(2, 1)]
    network = nn.Sequential(*parts).double().eval()
    bound = lipschitz_bound(network)
    assert spectral_norm(dense_jacobian(network, noise(1, 1, 6, 4))) <= bound * (1 + 1e-13) <= 1 + 1e-12
    tied = nn.Sequential(network[0], SOCTranspose.inverse_of(network[0])).eval()
    assert lipschitz_bound(tied) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_the_bias_is_added_to_the_outputs(training: bool) -> None:
    layer = SOCTranspose(8, 2, stride=2, dtype=torch.float64).train(training)
    assert layer.bias.abs().min() > 0
    y = layer(torch.zeros(1, 8, 3, 3, dtype=torch.float64))
    assert torch.equal(y, layer.bias.view(1, 2, 1, 1).expand(1, 2, 6, 6))
    assert SOCTranspose(8, 2, bias=False).bias is None


def test_the_bias_of_a_transpose_is_its_own() -> None:
    layer = SOC(2, 8, stride=2)
    transpose = SOCTranspose.of(layer, bias=True)
    assert transpose.bias.shape == (2,)
    assert 0 < transpose.bias.abs().max() <= 2**-0.5
    assert transpose.input_bias is None


def test_making_a_transpose_draws_no_random_numbers_and_changes_nothing() -> None:
    layer = SOC(2, 8, stride=2).eval()
    state, generator = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    transpose = SOCTranspose.inverse_of(layer)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    assert not transpose.training
    assert not any(value.is_meta for value in transpose.state_dict().values())


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
def test_an_unbatched_input_equals_a_batch_of_one(stride: int | tuple[int, int]) -> None:
    layer = evaluated(4, 2, stride=stride)
    x = noise(4, 2, 3)
    down, across = layer.stride
    assert layer(x).shape == (2, 2 * down, 3 * across)
    assert torch.equal(layer(x), layer(x[None])[0])
    assert layer(x[None][:0]).shape == (0, 2, 2 * down, 3 * across)


def test_autocast_runs_in_training() -> None:
    layer = SOCTranspose(8, 2, stride=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(torch.randn(2, 8, 4, 4)).float().square().mean()
    loss.backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


def test_parameters_and_arguments_are_those_of_its_counterparts() -> None:
    shapes = {name: value.shape for name, value in SOCTranspose(8, 3, 5, stride=2, groups=2).named_parameters()}
    assert shapes == {"weight": (12, 6, 5, 5), "bias": (3,)}
    names = [name for name in inspect.signature(nn.ConvTranspose2d).parameters if name not in ("device", "dtype")]
    assert list(inspect.signature(SOCTranspose).parameters)[: len(names)] == names


def test_representation() -> None:
    assert SOCTranspose(4, 2).extra_repr() == "4, 2, kernel_size=(3, 3), stride=(1, 1)"
    layer = SOC(1, 4, 1, stride=2, groups=2, padding_mode="circular")
    expected = "4, 1, kernel_size=(1, 1), stride=(2, 2), groups=2, bias=False, padding_mode='circular', input_bias=True"
    assert SOCTranspose.inverse_of(layer).extra_repr() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of .*, got 'reflect'"),
        ({"dilation": 2}, "dilation must be 1, got 2"),
        ({"stride": 0}, "stride must be positive, got 0"),
        ({"padding": 0}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 0"),
        ({"output_padding": 1}, "output_padding must be 0, .* got 1"),
        ({"output_padding": (0, 1)}, r"output_padding must be 0, .* got \(0, 1\)"),
        (
            {"groups": 3, "stride": 2},
            r"groups must divide max\(in_channels, out_channels \* stride\^2\) = 8, got 3",
        ),
        ({"in_channels": 0}, "channels must be at least 1, got 0 in, 2 out"),
        ({"engine": "spectral"}, "needs padding_mode='circular'"),
        ({"train_terms": 0}, "terms must be from 1 to 64, or None, got 0"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SOCTranspose(**{"in_channels": 8, "out_channels": 2, **settings})


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (2, 4, 4), (3, 4), (1, 1, 3, 4, 4)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"SOCTranspose .* \(B, 3, H, W\) or \(3, H, W\), got \({received}\)"):
        SOCTranspose(3, 4)(torch.zeros(shape))


def test_circular_padding_needs_a_map_as_large_as_its_reach() -> None:
    layer = SOCTranspose(4, 1, kernel_size=5, stride=2, padding_mode="circular")
    assert layer(torch.zeros(1, 4, 2, 2)).shape == (1, 1, 4, 4)
    with pytest.raises(
        ValueError, match=r"circular padding needs height and width of at least 2 x 2 for its .*, got 1 x 2"
    ):
        layer(torch.zeros(1, 4, 1, 2))
