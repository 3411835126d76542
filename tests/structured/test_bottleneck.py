"""Bottleneck adapters: their formula, what they attach to, files, and the counts of their parameters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from lipnet.structured import Bottleneck
from lipnet.structured.adapters import (
    AdapterConfig,
    BottleneckConfig,
    CirculantConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    ToeplitzConfig,
    attach,
    detach,
    load_adapter,
    merge,
    save_adapter,
    scale_adapter,
    use,
)
from lipnet.structured.adapters.config import config_from_plain, config_to_plain
from tests.structured.adapters.helpers import logits, same, snapshot, train

PROJECTIONS: list[AdapterConfig | None] = [
    None,
    LoRAConfig(rank=2),
    CirculantConfig(),
    ToeplitzConfig(),
    KroneckerConfig(),
    LowDisplacementRankConfig(rank=2),
]
SHAPE = (6, 8)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=PROJECTIONS, ids=str)
def config(request: pytest.FixtureRequest) -> BottleneckConfig:
    return BottleneckConfig(3, projection=request.param)


def test_it_computes_its_formula_in_float64(config: BottleneckConfig) -> None:
    torch.manual_seed(0)
    update = config.build(12, 5).double()
    for parameter in update.parameters():
        nn.init.normal_(parameter)
    y = torch.randn(7, 12, dtype=torch.float64)
    down, up = (matrix.to_dense().detach().numpy() for matrix in (update.down, update.up))
    assert update.down_bias is not None
    assert update.up_bias is not None
    hidden = y.numpy() @ down.T + update.down_bias.detach().numpy()
    hidden = torch.nn.functional.gelu(torch.from_numpy(hidden)).numpy()
    expected = y.numpy() + hidden @ up.T + update.up_bias.detach().numpy()
    np.testing.assert_allclose(update.output(y).detach(), expected, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(update.output, (y[:2].requires_grad_(True),))
    with torch.no_grad():
        half = torch.func.functional_call(update, update.interpolated(0.5), (torch.zeros(12, 5),))
        assert torch.equal(half, torch.zeros(12, 5))
        full = update.output(y) - y
        update.strength = 0.5
        torch.testing.assert_close(update.output(y) - y, 0.5 * full)


def test_it_starts_as_the_identity_trains_and_comes_back(
    network: nn.Module, images: Tensor, config: BottleneckConfig, tmp_path: Path
) -> None:
    before, base, fresh = snapshot(network), logits(network, images), copy.deepcopy(network)
    attach(network, config)
    assert torch.equal(logits(network, images), base)
    starts = {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}
    train(network, steps=3, shape=SHAPE)
    moved = [not torch.equal(value, starts[name]) for name, value in network.named_parameters() if name in starts]
    assert moved
    assert all(moved)
    adapted = logits(network, images)
    assert not torch.allclose(adapted, base, atol=1e-3)
    assert torch.equal(logits(copy.deepcopy(network), images), adapted)
    save_adapter(network, tmp_path / "adapter.safetensors")
    assert torch.equal(logits(load_adapter(fresh, tmp_path / "adapter.safetensors"), images), adapted)
    assert torch.equal(logits(scale_adapter(network, 0), images), base)
    assert torch.equal(logits(scale_adapter(network, 1), images), adapted)
    assert torch.equal(logits(use(network, None), images), base)
    detach(network)
    assert same(before, snapshot(network))
    assert not any(module._forward_hooks for module in network.modules())


def test_it_stands_beside_other_adapters(network: nn.Module, images: Tensor) -> None:
    base = logits(network, images)
    attach(network, BottleneckConfig(3), name="bottleneck")
    train(network, shape=SHAPE)
    adapted = logits(network, images)
    attach(network, GSOFTConfig(4), name="rotation")
    assert torch.equal(logits(network, images), base)
    assert torch.equal(logits(use(network, "bottleneck"), images), adapted)
    detach(network, "bottleneck")
    assert torch.equal(logits(network, images), base)
    assert not any(module._forward_hooks for module in network.modules())


def test_it_refuses_to_be_merged_and_certified(network: nn.Module) -> None:
    attach(network, BottleneckConfig(3), "0")
    with pytest.raises(ValueError, match=r"no weight computes it: cannot merge 'default' into 0\.weight"):
        merge(network)
    with pytest.raises(ValueError, match=r"0 .*has forward hooks"):
        lipschitz_bound(network.double())


def test_fused_attention_layers_apply_it() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    base = logits(layer, x)
    attach(layer, BottleneckConfig(4), "linear2")
    assert torch.equal(logits(layer, x), layer(x).detach())
    nn.init.normal_(layer.linear2.parametrizations.weight[0].updates["default"].up_bias)
    slow = layer(x).detach()
    assert not torch.allclose(slow, base, atol=1e-3)
    torch.testing.assert_close(logits(layer, x), slow)


def test_modules_whose_output_it_cannot_change_are_refused() -> None:
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(ValueError, match=r"in_proj_weight: .*after a Linear or a Conv1D, got MultiheadAttention"):
        attach(attention, BottleneckConfig(4))
    with pytest.raises(ValueError, match="attention reads the weight of its output projection"):
        attach(nn.ModuleDict({"a": attention}), BottleneckConfig(4), "a.out_proj")
    with pytest.raises(ValueError, match="got Conv2d"):
        attach(nn.Conv2d(3, 8, 1), BottleneckConfig(4))


def test_impossible_settings_are_refused() -> None:
    wrong: Any = GSOFTConfig(4)
    with pytest.raises(ValueError, match="projection must be an additive configuration or None, got GSOFT"):
        BottleneckConfig(4, projection=wrong)
    with pytest.raises(ValueError, match="width must be a whole number of at least 1, got 0"):
        BottleneckConfig(0)
    with pytest.raises(ValueError, match="activation must be one of gelu, relu, silu, tanh, got 'sin'"):
        BottleneckConfig(4, activation="sin")
    wrong = 1
    with pytest.raises(ValueError, match="bias must be True or False, got 1"):
        BottleneckConfig(4, bias=wrong)
    update = BottleneckConfig(4).build(12, 5)
    with pytest.raises(ValueError, match=r"projections must be \(width, 12\) and \(12, width\), got"):
        Bottleneck(12, 5, update.up, update.down)


def test_the_configuration_comes_back_from_plain_values(config: BottleneckConfig) -> None:
    assert config_from_plain(config_to_plain(config)) == config


def test_low_displacement_rank_takes_twelve_times_fewer_parameters_than_a_dense_bottleneck_of_48() -> None:
    """Twelve layers of width 768, weights of the projections alone."""

    def weights(config: BottleneckConfig) -> int:
        return 12 * sum(value.numel() for value in config.build(768, 3072).parameters())

    dense = weights(BottleneckConfig(48, bias=False))
    assert dense == 12 * 2 * 768 * 48 == 884_736
    assert dense == 12 * weights(BottleneckConfig(48, projection=LowDisplacementRankConfig(2), bias=False))
