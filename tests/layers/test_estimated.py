"""Evaluation with the scale of training: the function of training, without proofs, never certified."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.certify.bounds import logit_bounds
from lipnet.functional.reference import polynomial
from lipnet.layers import GSSOC, SOC, MaxMinPermuted, NormalizedLinear, SOCLinear
from lipnet.layers.estimated import estimated_scales
from lipnet.layers.soc import SCALINGS
from lipnet.models import LipConvNet
from tests.settings import touch


def network(head: type[nn.Module] = SOCLinear) -> LipConvNet:
    return LipConvNet(
        4,
        depth=4,
        stages=2,
        initial_channels=8,
        in_channels=1,
        image_size=8,
        conv=partial(GSSOC, groups=(2, 2)),
        activation=MaxMinPermuted,
        head=head,
    ).eval()


def forbid(monkeypatch: pytest.MonkeyPatch, *functions: str) -> None:
    """Let these functions, by module and name, fail in `lipnet.layers.engines`."""

    def fail(*arguments: object) -> None:
        raise AssertionError("a proof or a matrix was computed")

    for function in functions:
        monkeypatch.setattr(f"lipnet.layers.engines.{function}", fail)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_it_is_the_series_of_evaluation(padding_mode: str) -> None:
    layer = SOC(4, 4, padding_mode=padding_mode, bias=False, dtype=torch.float64)
    x = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    for _ in range(3):
        touch(layer)
        layer(x)
    layer.eval()
    # So few channels have the exact scale.
    filter_ = layer.filter()
    with torch.no_grad(), estimated_scales(layer):
        result = layer(x)
    series = layer._evaluation_series
    expected = polynomial(x, filter_ * series.factor, series.coefficients, padding_mode=padding_mode)
    torch.testing.assert_close(result, expected)
    assert (layer(x) - result).abs().max() < 0.05


@pytest.mark.parametrize("head", [SOCLinear, NormalizedLinear])
def test_neither_logits_nor_constant_wait_for_a_proof_or_a_matrix(
    head: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = network(head), torch.rand(3, 1, 8, 8)
    proven = logit_bounds(copy.deepcopy(model)).lipschitz
    forbid(
        monkeypatch,
        "prepared.norm_bound",
        "prepared.symbol_bound",
        "prepared.reshaped_filter_bound",
        "base.orthogonal_contractions",
    )
    with torch.no_grad(), estimated_scales(model):
        model(images)
    assert logit_bounds(model, estimate=True).lipschitz == pytest.approx(proven, rel=1e-3)
    with pytest.raises(AssertionError, match="a proof"):
        logit_bounds(model)


def test_state_and_evaluation_are_as_before() -> None:
    model, images = network(), torch.rand(3, 1, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        before = model(images)
        with estimated_scales(model):
            estimated = model(images)
        assert torch.equal(model(images), before)
    assert not torch.equal(estimated, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_change_of_the_weights_or_of_the_vectors_is_noticed() -> None:
    layer, x = SOC(40, 40).eval(), torch.randn(1, 40, 8, 8)

    def evaluate() -> Tensor:
        with torch.no_grad(), estimated_scales(layer):
            return layer(x)

    first = evaluate()
    assert torch.equal(evaluate(), first)
    layer.scaling.vectors.normal_()
    second = evaluate()
    layer.weight.data[0, 1] += 1
    assert not torch.equal(first, second)
    assert not torch.equal(evaluate(), second)


def test_an_estimate_is_never_certified() -> None:
    model, images = network().double(), torch.rand(2, 1, 8, 8)
    with estimated_scales(model):
        with pytest.raises(ValueError, match="estimate"):
            lipschitz_bound(model)
        with pytest.raises(ValueError, match="estimate"):
            certify(model, images, [0, 1])
        with pytest.raises(ValueError, match="estimate"):
            model.lipschitz_bound()
    certify(model, images, [0, 1])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_stale_vectors_are_refined(scaling: str) -> None:
    layer = SOC(64, 64, scaling=scaling, dtype=torch.float64)
    for vectors in layer.scaling.buffers():
        vectors.normal_()
    layer.eval()
    exact = layer.filter()
    estimated = layer._estimated_filter()
    ratio = float(estimated.norm() / exact.norm())
    # Even from random vectors; after a training step the vectors are far closer.
    assert 0.99 < ratio < 1.1
    assert torch.equal(layer._estimated_filter(), estimated)
