"""Frozen copies hold the values that a layer computed from its weights, and never recompute them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipnet.layers import SOC
from lipnet.layers.export.freeze import frozen_copy


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
