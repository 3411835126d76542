"""The context in which layers compute by plain products alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipnet.layers import GSSOC, SOC, MaxMin, SOCTranspose
from lipnet.layers.explicit import explicit_products
from tests.settings import PATHS


def model() -> nn.Sequential:
    torch.manual_seed(0)
    circular = SOC(4, 4, padding_mode="circular", engine="spectral")
    layers = nn.Sequential(GSSOC(4, 4, groups=(2, None)), MaxMin(), circular, SOC(4, 4, engine="series"))
    return layers.double().eval()


def explicit(layers: nn.Module) -> list[bool]:
    return [module.explicit for module in layers.modules() if isinstance(module, SOC)]


def test_it_ends_with_the_context_whatever_happens() -> None:
    layers = model()
    with explicit_products(layers):
        assert explicit(layers) == [True] * 3
        with explicit_products(layers[2]):
            pass
        assert explicit(layers) == [True] * 3, "an inner context leaves the outer one as it was"
    assert explicit(layers) == [False] * 3
    with pytest.raises(RuntimeError, match="from inside"), explicit_products(layers):
        raise RuntimeError("from inside")
    assert explicit(layers) == [False] * 3


def test_other_models_and_training_are_left_as_they_are() -> None:
    layers, other = model(), model()
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    with explicit_products(layers):
        assert explicit(other) == [False] * 3
        trained = layers.train()(x)
    assert trained.equal(other.train()(x))


@pytest.mark.parametrize(("mode", "engine"), PATHS)
@pytest.mark.parametrize("kind", [SOC, SOCTranspose])
def test_it_is_the_function_of_the_layer(kind: type[nn.Module], mode: str, engine: str) -> None:
    torch.manual_seed(0)
    layer = kind(4, 4, padding_mode=mode, engine=engine, eval_tolerance=1e-12, dtype=torch.float64).eval()
    layer.requires_grad_(False)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    with torch.inference_mode(), explicit_products(layer):
        inferred = layer(x)
    with explicit_products(layer):
        differentiable = layer(x.requires_grad_())
    torch.testing.assert_close(differentiable, layer(x), rtol=0, atol=1e-11)
    # The sums have another order, which the bound on the rounding error allows.
    torch.testing.assert_close(differentiable, inferred, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(differentiable.sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(layer(x).sum(), x)[0], rtol=0, atol=1e-11)
