"""Properties that every layer in the frequency domain has: guarantee, groups, sizes, modes, caches, export."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import explicit_arithmetic, lipschitz_bound, rounding_bounds
from lipnet.layers import BRO, LOT, BROLinear, Cayley, CayleyLinear, MaxMin, export
from lipnet.layers.explicit import explicit_products
from lipnet.layers.frequency import FrequencyLayer
from tests import exact_arithmetic
from tests.oracles import dense_jacobian, spectral_norm

Make = Callable[..., FrequencyLayer]
CONVOLUTIONS: dict[str, Make] = {"Cayley": Cayley, "LOT": LOT, "BRO": BRO, "BRO rank 1": partial(BRO, rank=1)}
SIZES = [(4, 4), (4, 5), (3, 2), (1, 1), (1, 3)]


@pytest.fixture(params=CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def make(request: pytest.FixtureRequest) -> Make:
    kind: Make = request.param

    def made(*args: Any, **options: Any) -> FrequencyLayer:
        layer = kind(*args, **options)
        nn.init.normal_(layer.get_parameter("weight"), std=0.5)
        return layer

    return made


def maps_of(layer: FrequencyLayer, size: tuple[int, int], batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, layer.in_channels, size[0] * layer.stride[0], size[1] * layer.stride[1])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(layer.get_parameter("weight").dtype)


def jacobian(layer: FrequencyLayer, size: tuple[int, int]) -> Any:
    """Return the Jacobian of a copy in float64 arithmetic on the operands as they are rounded to the layer's dtype."""
    return dense_jacobian(layer, maps_of(layer, size, 1))


def scale(layer: nn.Module, kind: str) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            if kind == "rank one" and parameter.dim() == 4:
                parameter.copy_(parameter[:, :1, :1, :1] * parameter[:1, :, :1, :1].expand_as(parameter))
            elif kind != "rank one":
                parameter.mul_(float(kind))


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("kind", ["1e-3", "1", "1e3", "0", "rank one"])
@pytest.mark.parametrize("training", [True, False])
def test_the_bound_is_at_least_the_norm(make: Make, training: bool, kind: str, padding_mode: str) -> None:
    layer = make(4, 4, groups=2, padding_mode=padding_mode).train(training)
    scale(layer, kind)
    with torch.no_grad():
        layer(maps_of(layer, (4, 5)))
    norm, bound = spectral_norm(jacobian(layer, (4, 5))), layer.lipschitz_bound()
    # The Jacobian itself is rounded in float32.
    assert norm <= bound * (1 + 1e-6)
    assert bound <= 1 + 1e-6 if kind != "1e3" or not training else bound < 1.5
    if not training:
        assert bound == 1.0


def test_the_operands_in_float32_are_proved_to_be_contractions(make: Make) -> None:
    layer = make(4, 6).eval()
    for size in SIZES:
        with torch.no_grad():
            (matrices,) = layer.operands(size)
        norms = np.linalg.norm(matrices.to(torch.complex128).numpy(), ord=2, axis=(-2, -1))
        assert 1 - 1e-5 <= norms.max() <= 1


def test_it_is_orthogonal_on_circular_maps(make: Make) -> None:
    layer = make(4, 4, dtype=torch.float64).eval()
    values = np.linalg.svd(jacobian(layer, (4, 5)), compute_uv=False)
    # The damping of BRO shrinks directions that V nearly lacks.
    assert values.max() <= 1
    assert values.min() >= (0.9 if isinstance(layer, BRO) else 1 - 1e-9)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 6, 1), (6, 4, 1), (2, 8, 2), (2, 4, (1, 2))])
def test_groups_are_independent_layers(make: Make, inputs: int, outputs: int, stride: Any, kernel: int) -> None:
    layer = make(inputs, outputs, kernel, stride=stride, groups=2, bias=False, dtype=torch.float64).eval()
    x = maps_of(layer, (3, 4))
    with torch.no_grad():
        together = layer(x)
        moved = nn.functional.unfold(x, layer.stride, stride=layer.stride).view(2, -1, 3, 4)
        for group, (half, expected) in enumerate(zip(moved.chunk(2, 1), together.chunk(2, 1), strict=True)):
            alone = make(half.shape[1], outputs // 2, kernel, bias=False, dtype=torch.float64).eval()
            for mine, theirs in zip(alone.parameters(), layer.parameters(), strict=True):
                mine.copy_(theirs.chunk(2)[group])
            torch.testing.assert_close(alone(half), expected, rtol=0, atol=1e-11)


def test_zero_padding_is_the_circular_layer_on_framed_maps(make: Make) -> None:
    layer = make(4, 4, (3, 1), padding_mode="zeros", dtype=torch.float64).eval()
    circular = make(4, 4, (3, 1), dtype=torch.float64).eval()
    circular.load_state_dict(layer.state_dict())
    x = maps_of(layer, (4, 5))
    with torch.no_grad():
        framed = circular(nn.functional.pad(x, (0, 0, 1, 1)))
        torch.testing.assert_close(layer(x), framed[:, :, 1:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
def test_explicit_products_are_the_same_function_at_every_size(make: Make, padding_mode: str) -> None:
    """4 x 4 and 4 x 5 maps have half spectra of the same shape."""
    layer = make(4, 6, 5, groups=2, padding_mode=padding_mode, dtype=torch.float64).eval()
    for size in SIZES:
        x = maps_of(layer, size)
        with torch.no_grad():
            expected = layer(x)
        with explicit_products(layer):
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"kernel_size": 1}, {"stride": 2, "groups": 2}, {"padding_mode": "zeros"}], ids=str
)
def test_the_rounding_is_covered(make: Make, options: dict[str, Any]) -> None:
    layer = make(4, 6, **options, dtype=torch.float64).eval()
    x = torch.rand(1, 4, 4, 6, dtype=torch.float64)
    with torch.no_grad(), explicit_arithmetic(layer):
        error = exact_arithmetic.error(layer, layer(x), x)
    assert error <= rounding_bounds(layer, (4, 4, 6)).logits < 1e6 * max(error, 1e-17)


@pytest.mark.parametrize("make_linear", [CayleyLinear, BROLinear])
def test_the_rounding_of_a_linear_layer_is_covered(make_linear: type[FrequencyLayer]) -> None:
    layer = make_linear(12, 5, dtype=torch.float64).eval()
    x = torch.rand(3, 12, dtype=torch.float64)
    with torch.no_grad(), explicit_arithmetic(layer):
        error = exact_arithmetic.error(layer, layer(x), x)
    assert error <= rounding_bounds(layer, (12,)).logits < 1e6 * max(error, 1e-17)


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize("training", [True, False])
def test_weights_that_are_not_finite_have_no_bound(make: Make, training: bool, value: float) -> None:
    layer = make(4, 4, dtype=torch.float64).train(training)
    with torch.no_grad():
        layer.get_parameter("weight").view(-1)[3] = value
        layer(maps_of(layer, (4, 4)))
    assert layer.lipschitz_bound() == inf
    assert rounding_bounds(layer.eval(), (4, 4, 4)).logits == inf


@pytest.mark.slow
def test_the_guarantee_after_real_steps(make: Make) -> None:
    layers = [make(3, 8, stride=2), MaxMin(), make(8, 8, groups=2), MaxMin(), make(8, 4)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x, target = torch.randn(8, 3, 8, 6), torch.randn(8, 4, 4, 3)
    for _ in range(50):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    model.eval()
    assert lipschitz_bound(model) == 1.0
    for layer in (layers[0], layers[2], layers[4]):
        assert isinstance(layer, FrequencyLayer)
        assert 0.99 <= spectral_norm(jacobian(layer, (4, 3))) <= 1 + 1e-6


def test_training_and_evaluation_are_the_same_map(make: Make) -> None:
    layer = make(4, 6, dtype=torch.float64)
    x = maps_of(layer, (4, 5))
    # Ten steps of Newton and Schulz leave small singular values below 1.
    atol = 0.3 if isinstance(layer, LOT) else 1e-10
    torch.testing.assert_close(layer(x), layer.eval()(x), rtol=0, atol=atol)


def test_gradcheck_in_training(make: Make) -> None:
    layer = make(2, 3, dtype=torch.float64)
    x = maps_of(layer, (2, 3), 1).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))


def test_gradients_flow_in_evaluation(make: Make) -> None:
    layer = make(4, 4).eval()
    layer(maps_of(layer, (4, 4))).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_copies_and_states_compute_the_same(make: Make) -> None:
    layer = make(4, 6, groups=2).eval()
    x = maps_of(layer, (4, 4))
    with torch.no_grad():
        expected = layer(x)
        other = make(4, 6, groups=2).eval()
        other(x)
        other.load_state_dict(layer.state_dict())
        for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
            assert same(x).equal(expected)
        torch.testing.assert_close(layer.double()(x.double()).float(), expected, rtol=0, atol=1e-5)
        assert layer.lipschitz_bound() == 1.0


def test_half_precision_and_autocast(make: Make) -> None:
    layer = make(4, 4)
    x = maps_of(layer, (4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        reduced = layer(x)
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), layer(x), rtol=0, atol=0.05)
    layer.eval()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    half = make(4, 4, dtype=torch.bfloat16).eval()
    half.load_state_dict(layer.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(half(x.bfloat16()).float(), expected, rtol=0, atol=0.1)
    assert half.lipschitz_bound() == 1.0


def test_inputs_without_a_batch_and_without_images(make: Make) -> None:
    layer = make(4, 6, stride=2)
    for _ in range(2):
        x = maps_of(layer, (2, 3))
        torch.testing.assert_close(layer(x[0]), layer(x)[0], rtol=0, atol=1e-5)
        assert layer(x[:0]).shape == (0, 6, 2, 3)
        with explicit_products(layer):
            assert layer(x[:0]).shape == (0, 6, 2, 3)
        layer.eval()


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
def test_the_exported_module_is_the_layer(make: Make, padding_mode: str) -> None:
    options: dict[str, Any] = {"padding_mode": padding_mode, "dtype": torch.float64}
    model = nn.Sequential(make(2, 8, **options), MaxMin(), make(8, 4, 1, groups=2, **options)).eval()
    plain = export(model, (2, 4, 6))
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), rtol=0, atol=1e-12)
        file = io.BytesIO()
        torch.save(plain, file)
        file.seek(0)
        torch.testing.assert_close(torch.load(file, weights_only=False)(x), plain(x), rtol=0, atol=0)
    assert not any("cholesky" in str(node.target) or "norm" in str(node.target) for node in plain.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_compiled_layers_are_the_same(make: Make, training: bool) -> None:
    layer = make(4, 4).train(training)
    x = maps_of(layer, (4, 4))
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-5)
    compiled(x).sum().backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "channels must be at least 1, got 0 in, 4 out"),
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"kernel_size": (3, 4)}, r"kernel_size must be odd, got \(3, 4\)"),
        ({"stride": 0}, "stride must be positive, got 0"),
        ({"padding": 0}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 0"),
        ({"padding": "valid"}, "padding must be 'same'.* got 'valid'"),
        ({"dilation": 2}, "dilation must be 1, got 2"),
        ({"padding_mode": "reflect"}, r"padding_mode must be one of \('zeros', 'circular'\), got 'reflect'"),
        (
            {"groups": 3},
            r"groups must divide in_channels \* stride\^2 = 4 and out_channels = 4, got 3",
        ),
    ],
)
def test_invalid_settings_raise(make: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{"in_channels": 4, "out_channels": 4, **settings})


@pytest.mark.parametrize("make_linear", [CayleyLinear, BROLinear])
def test_linear_layers(make_linear: type[FrequencyLayer]) -> None:
    layer = make_linear(6, 4)
    for _ in range(2):
        x = torch.randn(5, 6)
        assert layer(x).shape == (5, 4)
        assert 1 - 1e-4 <= spectral_norm(dense_jacobian(layer, x[:1])) <= layer.lipschitz_bound() * (1 + 1e-6)
        layer.eval()
    assert layer.lipschitz_bound() == 1.0
    with pytest.raises(ValueError, match="in_features must be positive, got 0"):
        make_linear(0, 4)
    for groups in (0, 2):
        with pytest.raises(ValueError, match=f"groups must divide in_features = 5 and out_features = 4, got {groups}"):
            make_linear(5, 4, groups=groups)
