"""Frozen copies hold the values that a layer computed from its weights, and never recompute them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lipnet.layers import AOL, BRO, CPL, SLL, SOC, Cayley, ScaledConv2d, export
from lipnet.layers.export.freeze import frozen_copy
from lipnet.layers.operands import OperandLayer


def test_constants_are_those_of_the_layers_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(SOC(3, 8), nn.Flatten(), nn.Linear(3200, 4)).eval()
    x = torch.rand(2, 3, 20, 20)
    with torch.no_grad():
        expected = model(x)
    monkeypatch.setattr(SOC, "_prepare", None)  # what was computed is enough
    copy = frozen_copy(model, x)
    torch.testing.assert_close(copy(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(copy[0].filter_0, model[0].prepared().factored)


@pytest.mark.parametrize("layer_class", [AOL, BRO, CPL, SLL, Cayley, ScaledConv2d])
def test_exported_operands_are_those_of_the_evaluation(layer_class: Callable[..., OperandLayer]) -> None:
    torch.manual_seed(0)
    layer = layer_class(4, 4, 3).eval()
    x = torch.rand(2, 4, 6, 5)
    with torch.no_grad():
        expected = layer(x)
    operands = layer.operands_in_use((6, 5))
    plain = export(layer, (4, 6, 5))
    constants = [*plain.parameters(), *plain.buffers()]
    for operand in operands:
        same = [each for each in constants if each.shape == operand.shape and each.dtype == operand.dtype]
        assert any(torch.equal(each, operand) for each in same)
    torch.testing.assert_close(plain(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer_class", [AOL, Cayley])
def test_compiled_evaluations_compute_the_operands_once(
    layer_class: type[OperandLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    compute = layer_class.compute_operands

    def counted(self: OperandLayer, *weights: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        calls.append(size)
        return compute(self, *weights, size=size)

    monkeypatch.setattr(layer_class, "compute_operands", counted)
    layer = layer_class(4, 4).eval()  # type: ignore[arg-type]
    compiled = torch.compile(layer, backend="eager")
    x = torch.rand(2, 4, 6, 5)
    with torch.no_grad():
        results = [compiled(x) for _ in range(3)]
        assert len(calls) == 1
        assert torch.equal(results[2], layer(x))
        layer.weights()[0].mul_(-3)
        assert torch.equal(compiled(x), layer(x))
    assert len(calls) == 2


def test_a_frozen_layer_no_longer_follows_the_weights() -> None:
    layer = SOC(4, 4).eval()
    x = torch.rand(1, 4, 24, 24)
    copy = frozen_copy(layer, x)
    before = copy(x)
    with torch.no_grad():
        layer.weight.add_(1)
        copy.weight.add_(1)  # type: ignore[union-attr]
    assert torch.equal(copy(x), before)
    assert not torch.allclose(layer(x), before)


def test_a_model_of_one_tensor_is_needed() -> None:
    with pytest.raises(TypeError, match="returns tuple"):
        frozen_copy(nn.MaxPool2d(2, return_indices=True).eval(), torch.rand(1, 1, 4, 4))
