"""Every engine against the definition of SOC, in training and in evaluation: values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lipnet.functional import reference
from lipnet.layers import SOC
from lipnet.layers.explicit import explicit_products
from tests.settings import PATHS

# Map sizes for every form of the series: one pixel, a few pixels, tiles (with 128 channels), convolutions.
SIZES = [(1, 1), (2, 2), (4, 4), (5, 3)]


def layer_of(padding_mode: str, engine: str, groups: int, channels: int = 4, **options: Any) -> SOC:
    torch.manual_seed(0)
    options = {"train_tolerance": 1e-13, "eval_tolerance": 1e-13, **options}
    settings = {"groups": groups, "bias": False, "padding_mode": padding_mode, "engine": engine}
    return SOC(channels, channels, **settings, **options, dtype=torch.float64)


def defined(layer: SOC, x: torch.Tensor) -> torch.Tensor:
    """Return exp(J) x by the definition, with the scale as a constant."""
    skew = reference.skew_filter(layer.weight, layer.groups)
    scales = [
        (scaled.norm() / part.norm()).detach()
        for scaled, part in zip(layer.filter().chunk(layer.groups), skew.chunk(layer.groups), strict=True)
    ]
    return reference.soc(x, layer.weight, 30, layer.groups, layer.padding_mode, torch.stack(scales))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
def test_every_engine_is_the_definition(
    padding_mode: str, engine: str, training: bool, groups: int, size: tuple[int, int]
) -> None:
    layer = layer_of(padding_mode, engine, groups).train(training)
    x, cotangent = torch.randn(2, 2, 4, *size, dtype=torch.float64)
    x.requires_grad_()
    expected = defined(layer, x)
    result = layer(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)
    (correct,) = torch.autograd.grad(expected, x, cotangent)
    (gradient,) = torch.autograd.grad(result, x, cotangent)
    torch.testing.assert_close(gradient, correct, rtol=0, atol=1e-10)
    if not training:
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)
            with explicit_products(layer):
                torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
def test_every_engine_has_the_same_gradient_of_the_weight(padding_mode: str, engine: str, training: bool) -> None:
    """The gradient of the definition with the scaled filter in place of the weight, and with the scale's own part."""
    gradients = []
    for name in ("series", engine):
        layer = layer_of(padding_mode, name, 2).train(training)
        x, cotangent = torch.randn(2, 2, 4, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        layer(x).backward(cotangent)
        gradients.append(layer.weight.grad)
        scaled = layer_of(padding_mode, name, 2).train(training)
        filter_ = scaled.filter()
        (at_filter,) = torch.autograd.grad(reference.soc(x, filter_, 30, 2, padding_mode), filter_, cotangent)
        filter_.backward(at_filter)
        torch.testing.assert_close(layer.weight.grad, scaled.weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_tiles_are_the_definition(training: bool) -> None:
    layer = layer_of("zeros", "series", 1, channels=128, train_tolerance=1e-3, eval_tolerance=1e-3).train(training)
    x = torch.randn(64, 128, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), defined(layer, x), rtol=0, atol=2e-2)
