"""Adapters applied with a strength between the base and the adapter."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.structured.adapters import (
    AdapterConfig,
    CirculantConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    ToeplitzConfig,
    attach,
    detach,
    merge,
    scale_adapter,
    use,
)
from tests.structured.adapters.helpers import logits, train


def test_a_strength_of_zero_is_the_base_and_of_one_the_adapter(
    network: nn.Module, images: Tensor, config: AdapterConfig
) -> None:
    base = logits(network, images)
    train(attach(network, config))
    use(network, None)
    unadapted = logits(network, images)
    adapted = logits(use(network, "default"), images)
    assert torch.equal(unadapted, base)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    weights = [network.get_submodule(site).weight.detach().clone() for site in ("stem", "head")]
    scale_adapter(network, 0)
    originals = [network.get_submodule(f"{site}.parametrizations.weight").original for site in ("stem", "head")]
    assert all(
        torch.equal(network.get_submodule(site).weight, original)
        for site, original in zip(("stem", "head"), originals, strict=True)
    )
    scale_adapter(network, 0.5)
    between = logits(network, images)
    assert not torch.allclose(between, adapted, atol=1e-4)
    assert torch.equal(logits(merge(copy.deepcopy(network)), images), between)
    assert torch.equal(logits(scale_adapter(network, 1), images), adapted)
    after = [network.get_submodule(site).weight for site in ("stem", "head")]
    assert all(torch.equal(a, b) for a, b in zip(after, weights, strict=True))
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize("strength", [0.25, 0.5, 2.0])
def test_a_scaled_additive_adapter_adds_that_share(network: nn.Module, strength: float) -> None:
    head = network.get_submodule("head")
    for config in (LoRAConfig(2), KroneckerConfig(), LowDisplacementRankConfig(2), ToeplitzConfig(), CirculantConfig()):
        original = head.weight.detach().clone()
        train(attach(network, config, "head"))
        full = head.weight.detach() - original
        scale_adapter(network, strength)
        np.testing.assert_allclose((head.weight - original).detach(), strength * full, atol=1e-6)
        detach(network)


def test_a_scaled_orthogonal_adapter_stays_orthogonal_and_takes_powers_of_the_exponential(network: nn.Module) -> None:
    head = network.get_submodule("head")
    norms = torch.linalg.svdvals(head.weight.detach())
    original = head.weight.detach().double()
    train(attach(network, OFTConfig(4, scale=False, block_map="exponential"), "head"), rate=0.3)
    matrix = network.get_submodule("head.parametrizations.weight.0.updates.default.input")
    scale_adapter(network, 0.5)
    np.testing.assert_allclose(torch.linalg.svdvals(head.weight.detach()), norms, rtol=1e-5)
    half = torch.linalg.lstsq(original, head.weight.detach().double()).solution
    rotation = matrix.to_dense().detach().double().mT
    with torch.no_grad():
        matrix.generators.mul_(0.5)
    root = matrix.to_dense().detach().double().mT
    np.testing.assert_allclose(root @ root, rotation, atol=1e-5)
    np.testing.assert_allclose(original @ half, original @ root, atol=1e-5)
    with pytest.raises(ValueError, match="strength must be finite, got nan"):
        scale_adapter(network, float("nan"))
    with pytest.raises(ValueError, match="there is no adapter 'b', only 'default'"):
        scale_adapter(network, 0.5, "b")


def test_training_at_another_strength_trains_what_evaluation_computes(network: nn.Module, images: Tensor) -> None:
    scale_adapter(train(attach(network, GSOFTConfig(4), "head")), 0.5)
    head, x = network.get_submodule("head"), torch.randn(3, 8)
    assert torch.equal(head.train()(x), head.eval()(x))
    head.train()(x).sum().backward()
    assert all(value.grad is not None for value in head.parameters() if value.requires_grad)
