"""The parametrization on an adapted weight."""

from __future__ import annotations

import torch
from torch import nn

from lipnet.structured import LowRank
from lipnet.structured.adapters.weight import AdaptedWeight, put_on, take_off


def test_without_an_adapter_the_weight_itself_comes_through() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    assert AdaptedWeight()(weight) is weight


def test_a_weight_of_a_convolution_is_a_matrix_to_the_update() -> None:
    adapted, weight = AdaptedWeight(), torch.randn(4, 3, 2, 5)
    update = LowRank(4, 30, rank=2)
    nn.init.normal_(update.B)
    adapted.updates["a"] = update
    adapted.active = "a"
    expected = (weight.flatten(1) + update.to_dense()).reshape(4, 3, 2, 5)
    assert torch.equal(adapted(weight.to(memory_format=torch.channels_last)), expected)
    assert adapted(weight).is_contiguous()


def test_what_was_put_on_comes_off_to_the_same_place() -> None:
    layer = nn.Linear(3, 2)
    weight = layer.weight
    adapted = put_on(layer, "weight")
    assert layer.weight is weight
    assert repr(adapted).startswith("AdaptedWeight(\n  active=None")
    take_off(layer, "weight", adapted)
    assert [*layer._parameters] == ["weight", "bias"]
    assert layer.weight is weight
    assert type(layer) is nn.Linear
