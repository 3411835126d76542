"""The recipe for the attention layers of diffusers, on a small UNet with random weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.structured.adapters import DoubleGSOFTConfig, GSOFTConfig, attach, load_adapter, merge, save_adapter

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra study)", exc_type=ImportError)

TARGETS = [f"*.attn?.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]


@pytest.fixture
def unet() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@torch.no_grad()
def noise(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, prompt = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    predicted: Tensor = unet(latents, torch.tensor([3, 700]), encoder_hidden_states=prompt).sample
    return predicted


@pytest.mark.parametrize("config", [GSOFTConfig(blocks=4), DoubleGSOFTConfig(blocks=4)], ids=["GSOFT", "Double GSOFT"])
def test_the_attention_of_a_unet_is_adapted_saved_and_merged(unet: Any, config: GSOFTConfig, tmp_path: Path) -> None:
    fresh, base = copy.deepcopy(unet), noise(unet)
    attach(unet, config, TARGETS)
    assert torch.equal(noise(unet), base)
    trained = {name for name, value in unet.named_parameters() if value.requires_grad}
    assert all(".attn1." in name or ".attn2." in name for name in trained)
    optimizer = torch.optim.Adam([value for value in unet.parameters() if value.requires_grad], lr=0.01)
    for _ in range(2):
        latents, prompt = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
        loss = (unet.train()(latents, 5, encoder_hidden_states=prompt).sample - torch.randn(2, 4, 8, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    adapted = noise(unet.eval())
    assert not torch.allclose(adapted, base, atol=1e-4)
    save_adapter(unet, tmp_path / "unet.safetensors")
    assert torch.equal(noise(load_adapter(fresh, tmp_path / "unet.safetensors").eval()), adapted)
    assert torch.equal(noise(merge(unet)), adapted)
