"""Weights in other conventions: Conv1D's layout (in, out), and the published code of GSOFT."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lipnet.structured.adapters import (
    AdapterConfig,
    GSOFTConfig,
    LoRAConfig,
    attach,
    detach,
    merge,
)
from tests.structured.adapters.helpers import same, snapshot


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2, which stores its weight as (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(0.1 * torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], self.nf)


def test_a_conv1d_is_adapted_as_the_linear_layer_that_it_is(config: AdapterConfig) -> None:
    layer, linear, x = Conv1D(8, 16), nn.Linear(16, 8), torch.randn(3, 16)
    with torch.no_grad():
        linear.weight.copy_(layer.weight.mT)
        linear.bias.copy_(layer.bias)
    models = [nn.Sequential(layer).eval(), nn.Sequential(linear).eval()]
    before = snapshot(models[0])
    for model in models:
        torch.manual_seed(0)
        attach(model, config)
        torch.manual_seed(1)
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.add_(0.3 * torch.randn_like(value))
    adapted = models[0](x).detach()
    assert layer.weight.shape == (16, 8)
    assert layer.weight.is_contiguous()
    torch.testing.assert_close(adapted, models[1](x).detach())
    merged = merge(copy.deepcopy(models[0]))
    assert torch.equal(merged(x).detach(), adapted)
    assert same(before, snapshot(detach(models[0])))


def test_a_class_named_conv1d_with_another_layout_is_refused() -> None:
    layer = Conv1D(8, 16)
    layer.weight = nn.Parameter(torch.zeros(8, 16))
    with pytest.raises(ValueError, match=r"a Conv1D needs a weight \(in, 8\), got \(8, 16\)"):
        attach(nn.Sequential(layer), LoRAConfig(2))


class PublishedGSOFTLayer(nn.Module):
    """GSOFT's published layer, y = s (W Q x) + b with Q = P^T L P R, in plain operations."""

    def __init__(self, linear: nn.Linear, blocks: int) -> None:
        super().__init__()
        features, self.linear = linear.in_features, linear
        shape = (blocks, features // blocks, features // blocks)
        self.gsoft_R, self.gsoft_L = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
        self.gsoft_s = nn.Parameter(torch.rand(linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        def cayley(data: Tensor) -> Tensor:
            skew, identity = 0.5 * (data - data.mT), torch.eye(data.shape[-1])
            return torch.linalg.solve(identity - skew, identity + skew, left=False)

        blocks, size, _ = self.gsoft_R.shape
        x = torch.einsum("kij,bkj->bki", cayley(self.gsoft_R), x.view(len(x), blocks, size)).flatten(1)
        x = torch.einsum("kij,bkj->bki", cayley(self.gsoft_L), x.view(len(x), size, blocks).mT).mT.flatten(1)
        return self.gsoft_s * nn.functional.linear(x, self.linear.weight) + self.linear.bias


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_the_parameters_of_gsofts_published_code_can_be_imported(blocks: int) -> None:
    linear, x = nn.Linear(16, 8), torch.randn(5, 16)
    published = PublishedGSOFTLayer(linear, blocks)
    expected = published(x).detach()
    attach(linear, GSOFTConfig(blocks=blocks, transpose=False))
    update = linear.get_submodule("parametrizations.weight.0.updates.default")
    with torch.no_grad():
        update.input.generators[0] = published.gsoft_R / 2
        update.input.generators[1] = published.gsoft_L / 2
        update.scale.copy_(published.gsoft_s)
    for mode in (True, False):
        torch.testing.assert_close(linear.train(mode)(x).detach(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merge(linear)(x).detach(), expected, atol=1e-5, rtol=1e-5)
