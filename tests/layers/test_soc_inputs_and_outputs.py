"""Inputs that skew-orthogonal layers accept, and in-place changes of their outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lipnet.layers import GSSOC, SOC, SOC1d, SOCLinear, SOCTranspose

MAKERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: SOC(4, 8, bias=False), (2, 4, 6, 6)),
    (lambda: SOC(4, 8, bias=False), (2, 4, 1, 1)),
    (lambda: SOC(8, 3, bias=False, groups=2), (1, 8, 6, 6)),
    (lambda: SOC(8, 3, bias=False), (1, 8, 2, 2)),
    (lambda: SOC(4, 4, bias=False, padding_mode="circular", engine="spectral"), (2, 4, 4, 4)),
    (lambda: SOC(4, 4, bias=False, padding_mode="circular", engine="spectral"), (2, 4, 9, 9)),
    (lambda: SOC(4, 4, bias=False, engine="dense"), (2, 4, 2, 2)),
    (lambda: GSSOC(4, 8, groups=(2, 2), bias=False), (2, 4, 6, 6)),
    (lambda: SOCLinear(4, 8, bias=False), (2, 4)),
    (lambda: SOCLinear(8, 4, bias=False), (2, 8)),
    (lambda: SOC1d(4, 8, bias=False), (2, 4, 6)),
    (lambda: SOCTranspose(8, 2, stride=2, bias=False), (2, 8, 3, 3)),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shape"), MAKERS)
def test_outputs_may_be_changed_in_place(make: Callable[[], nn.Module], shape: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    layer = make().train(training)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    x = torch.randn(shape)
    gradients = []
    for inplace in (False, True):
        layer.load_state_dict(state)
        layer.zero_grad()
        input_ = x.clone().requires_grad_()
        nn.Sequential(layer, nn.ReLU(inplace=inplace))(input_).square().sum().backward()
        gradients.append([input_.grad, *(parameter.grad for parameter in layer.parameters())])
    for expected, result in zip(*gradients, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda: SOC(4, 4), lambda: SOC(4, 4, padding_mode="circular")])
@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_inputs_of_another_dtype_are_refused(
    make: Callable[[], SOC], size: int, training: bool, dtype: torch.dtype
) -> None:
    layer = make().train(training)
    with pytest.raises(ValueError, match=f"SOC needs an input of its weight's dtype, torch.float32, got {dtype}"):
        layer(torch.ones(1, 4, size, size, dtype=dtype))


def test_autocast_takes_inputs_of_another_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert SOC(4, 4)(torch.ones(1, 4, 6, 6, dtype=torch.bfloat16)).shape == (1, 4, 6, 6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [4, 16])
def test_circular_padding_in_half_precision(size: int, training: bool) -> None:
    torch.manual_seed(0)
    layer = SOC(4, 4, padding_mode="circular", engine="spectral").train(training)
    x = torch.randn(2, 4, size, size)
    with torch.no_grad():
        expected = layer(x)
        result = layer.bfloat16()(x.bfloat16())
    assert result.dtype is torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)
    if not training:
        with torch.no_grad():
            assert SOC(4, 4, padding_mode="circular").bfloat16().eval()(x.bfloat16()).dtype is torch.bfloat16
