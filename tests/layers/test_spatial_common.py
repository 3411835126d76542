"""Guarantee, state, export and refusals of AOL, SLL, CPL, BCOP, AOC, CHORD and the sandwich layer."""

from __future__ import annotations

import copy
import pickle
from math import inf, nan
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import explicit_arithmetic, lipschitz_bound, rounding_bounds
from lipnet.layers import AOC, AOL, BCOP, CPL, SLL, AOLLinear, Cholesky, Sandwich, export
from lipnet.layers.operands import OperandLayer
from tests.exact_arithmetic import BITS, Exact, exact
from tests.oracles import Matrix, convolution_matrix, dense_jacobian, spectral_norm

CONVOLUTIONS: list[type[OperandLayer]] = [AOL, BCOP, AOC, SLL, CPL]
LINEAR: list[type[OperandLayer]] = [AOLLinear, Cholesky, Sandwich]
LAYERS = [*CONVOLUTIONS, *LINEAR]
RESIDUAL = (SLL, CPL)


def make(kind: type[OperandLayer], **settings: Any) -> OperandLayer:
    return kind(4, 6, **settings)


def shape(kind: type[OperandLayer]) -> tuple[int, ...]:
    return (4,) if kind in LINEAR else (4, 4, 4)


def jacobian_norm(layer: OperandLayer, dtype: torch.dtype = torch.float64) -> float:
    point = torch.randn(1, *shape(type(layer)), dtype=dtype)
    return spectral_norm(dense_jacobian(layer, point))


def fill(layer: OperandLayer, how: str, scale: float) -> None:
    """Overwrite all parameters that are matrices or filters."""
    for parameter in layer.parameters():
        if parameter.dim() < 2 or not parameter.numel():
            continue
        with torch.no_grad():
            values = torch.randn_like(parameter)
            if how == "rank one":
                values = values[:1] * torch.randn_like(values.flatten(1).sum(1)).view(-1, *[1] * (values.dim() - 1))
            if how == "equal":
                values = torch.ones_like(values)
            parameter.copy_(scale * values)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_bound_covers_hostile_weights(kind: type[OperandLayer], training: bool) -> None:
    for how in ("normal", "rank one", "equal"):
        for scale in (1e-3, 1.0, 1e3, 0.0):
            layer = make(kind, dtype=torch.float64).train(training)
            fill(layer, how, scale)
            assert jacobian_norm(layer) <= layer.lipschitz_bound() * (1 + 1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_bound_in_float32_is_tight(kind: type[OperandLayer]) -> None:
    layer = make(kind).eval()
    assert jacobian_norm(layer, torch.float32) <= layer.lipschitz_bound() * (1 + 1e-6)
    assert 0.5 < layer.lipschitz_bound() <= 1 + 1e-6


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_that_are_not_finite_have_an_infinite_bound(kind: type[OperandLayer]) -> None:
    for value in (nan, inf):
        layer = make(kind)
        with torch.no_grad():
            layer.weights()[0].view(-1)[0] = value
        assert layer.lipschitz_bound() == inf
        assert layer.eval().lipschitz_bound() == inf


@pytest.mark.cover(0)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_bound_holds_after_optimisation_steps(kind: type[OperandLayer], training: bool) -> None:
    layer = make(kind, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    x = torch.randn(2, *shape(kind), dtype=torch.float64)
    target = 3 * torch.randn_like(layer(x))
    for step in range(50):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
        if step % 10 == 9:
            bound = layer.train(training).lipschitz_bound()
            assert jacobian_norm(layer) <= bound * (1 + 1e-12)
            # The vector of CPL's training is that of the weight before the step.
            assert bound <= 1 + 1e-6 or (kind is CPL and training)
            layer.train()


# The gradient of CPL's proven norm in evaluation is that of an estimate.
@pytest.mark.parametrize(
    ("kind", "training"), [(kind, mode) for kind in LAYERS for mode in (True, False) if mode or kind is not CPL]
)
def test_gradients_of_the_operands(kind: type[OperandLayer], training: bool) -> None:
    settings: dict[str, Any] = {} if kind in LINEAR else {"groups": 2}
    layer = make(kind, dtype=torch.float64, **settings).train(training)
    for parameter in layer.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = [weight.detach().clone() for weight in layer.weights()]
    if isinstance(layer, CPL):
        # The gradient is exact for any fixed vector; a top one is the case that occurs.
        with torch.no_grad():
            for _ in range(30):
                layer._advance()
        weights[-1] = layer.vector.clone()
    inputs = [weight.requires_grad_(weight.is_floating_point()) for weight in weights[: len(list(layer.parameters()))]]
    rest = weights[len(inputs) :]

    def operands(*free: Tensor) -> tuple[Tensor, ...]:
        return layer.compute_operands(*free, *rest, size=(4, 4))

    assert torch.autograd.gradcheck(operands, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_groups_are_layers_of_their_own(kind: type[OperandLayer]) -> None:
    layer = make(kind, groups=2, stride=2, dtype=torch.float64).eval()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    parts = []
    for group in range(2):
        alone = kind(2, 3, stride=2, dtype=torch.float64).eval()
        own = dict(alone.named_parameters())
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                axis = 1 if name.endswith("bases") else 0
                own[name].copy_(parameter.chunk(2, axis)[group])
        parts.append(alone(x[:, 2 * group : 2 * group + 2]))
    if kind in RESIDUAL:
        # Missing channels are appended to all groups together: the groups of the inner layer hold 4 of 8 channels each.
        assert layer.lipschitz_bound() <= 1 + 1e-10
        kernel = layer.operands((2, 2))[0]
        for half, full in zip(kernel.chunk(2), layer.weights()[0].chunk(2), strict=True):
            ratio = half / full.detach()
            torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
    else:
        torch.testing.assert_close(layer(x), torch.cat(parts, dim=1))


@pytest.mark.parametrize("kind", LAYERS)
def test_copies_compute_the_same(kind: type[OperandLayer]) -> None:
    layer = make(kind)
    x = torch.randn(2, *shape(kind))
    layer(x)
    expected = layer.eval()(x)
    other = make(kind).eval()
    other.load_state_dict(layer.state_dict())
    for each in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(each(x), expected)
    torch.testing.assert_close(layer.double()(x.double()), expected.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_evaluation_notices_new_weights(kind: type[OperandLayer]) -> None:
    layer = make(kind).eval()
    x = torch.randn(2, *shape(kind))
    with torch.no_grad():
        before = layer(x)
        fill(layer, "normal", 1.0)
        after = layer(x)
        assert not torch.allclose(before, after)
    torch.testing.assert_close(layer(x), after, rtol=0, atol=1e-6)  # with gradients, without the cache


@pytest.mark.parametrize("kind", LAYERS)
def test_training_and_evaluation_agree(kind: type[OperandLayer]) -> None:
    layer = make(kind)
    x = torch.randn(2, *shape(kind))
    trained = layer(x)
    tolerance = 0.2 if kind is CPL else 1e-5
    torch.testing.assert_close(layer.eval()(x), trained, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", LAYERS)
def test_batches(kind: type[OperandLayer]) -> None:
    layer = make(kind).eval()
    x = torch.randn(3, *shape(kind))
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    if kind in CONVOLUTIONS:
        torch.testing.assert_close(layer(x[0]), layer(x)[0])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), layer(x.float()).float())
    with pytest.raises(ValueError, match=r"needs an input of shape \(B, 4"):
        layer(torch.zeros(2, 5, *shape(kind)[1:]))


@pytest.mark.cover(0)
@pytest.mark.parametrize("kind", LAYERS)
def test_an_exported_layer_computes_the_same(kind: type[OperandLayer]) -> None:
    layer = make(kind).eval()
    x = torch.randn(3, *shape(kind))
    plain = export(nn.Sequential(layer).eval(), shape(kind))
    torch.testing.assert_close(plain(x), layer(x), rtol=0, atol=1e-6)
    targets = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert not any("cholesky" in target or "lipnet" in target for target in targets)


def dense(layer: OperandLayer, kernel: Tensor, size: tuple[int, int]) -> Matrix:
    if isinstance(layer, AOC):
        return dense_jacobian(lambda x: layer.apply_operands(x, (kernel,)), torch.zeros(1, 4, *size).double())
    return convolution_matrix(kernel, *size, 1, layer.padding_mode)


def exactly(layer: OperandLayer, x: Exact) -> Exact:
    """The layer on one sample, with 300 bits, from its operands."""
    operands, size = layer.operands((4, 4)), (4, 4)
    if isinstance(layer, Sandwich):
        after, before, bias = map(exact, operands)
        return after.T @ np.maximum(before @ x + bias, 0)
    if type(layer) in LINEAR:
        return exact(operands[0].flatten(1)) @ x + exact(layer.bias)
    flat = x.ravel()
    if type(layer) in RESIDUAL:
        kernel, adjoint, bias = operands
        hidden = exact(dense(layer, kernel, size)) @ flat + exact(bias).repeat(16)
        step = exact(dense(layer, adjoint, size)) @ np.maximum(hidden, 0)
        return np.concatenate([flat, exact(np.zeros(len(step) - len(flat)))]) - step
    image = exact(dense(layer, operands[0], size)) @ flat
    return image + exact(layer.bias).repeat(len(image) // layer.out_channels)


# A stride of the other layers is space-to-depth, which rounds nothing.
@pytest.mark.parametrize(("kind", "settings"), [*((kind, {}) for kind in LAYERS), (AOC, {"stride": 2})])
def test_the_rounding_bound_covers_the_error(kind: type[OperandLayer], settings: dict[str, Any]) -> None:
    layer = make(kind, dtype=torch.float64, **settings).eval()
    fill(layer, "normal", 1.0)
    x = torch.rand(1, *shape(kind), dtype=torch.float64)
    with torch.no_grad(), explicit_arithmetic(layer):
        computed = layer(x)[0]
    with mpmath.workprec(BITS):
        difference = exact(computed).ravel() - exactly(layer, exact(x[0])).ravel()
        error = float(mpmath.sqrt(sum(entry * entry for entry in difference)))
    bound = rounding_bounds(nn.Sequential(layer, nn.Flatten()).eval(), shape(kind)).logits
    assert 0 < error <= bound <= 1e-11


@pytest.mark.parametrize("kind", LAYERS)
def test_certify_accepts_it(kind: type[OperandLayer]) -> None:
    model = nn.Sequential(make(kind), nn.Flatten()).double().eval()
    assert lipschitz_bound(model) == pytest.approx(1, abs=1e-5)


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
    ({"stride": 0}, "stride must be positive, got 0"),
    ({"padding": "valid"}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 'valid'"),
    ({"padding": 0}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 0"),
    ({"padding_mode": "reflect"}, r"padding_mode must be one of \('zeros', 'circular'\), got 'reflect'"),
    ({"groups": 4}, "groups must divide in_channels = 4 and out_channels = 6, got 4"),
    ({"groups": 0}, "groups must divide .*, got 0"),
    ({"dilation": 0}, "dilation must be (1|positive), got 0"),
]


@pytest.mark.parametrize(("settings", "message"), INVALID)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_invalid_settings_are_refused(kind: type[OperandLayer], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **settings)


@pytest.mark.parametrize("kind", [AOL, BCOP, SLL, CPL])
def test_dilations_are_refused(kind: type[OperandLayer]) -> None:
    with pytest.raises(ValueError, match="dilation must be 1, got 2"):
        make(kind, dilation=2)


@pytest.mark.parametrize("kind", LAYERS)
def test_its_representation_names_its_settings(kind: type[OperandLayer]) -> None:
    layer = make(kind, bias=False, **({} if kind in LINEAR else {"groups": 2, "padding_mode": "circular"}))
    text = repr(layer).replace("\n", "")
    assert text.startswith(f"{kind.__name__}(")
    assert "4, 6" in text
    assert "bias=False" in text
    if kind in CONVOLUTIONS:
        assert "groups=2" in text
        assert "padding_mode='circular'" in text
