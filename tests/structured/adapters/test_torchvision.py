"""Adapters on torchvision's unmodified networks."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer, resnet50, vit_b_16
from torchvision.models.resnet import Bottleneck

from lipnet.structured.adapters import (
    AdapterConfig,
    GSOFTConfig,
    LoRAConfig,
    attach,
    describe,
    detach,
    load_adapter,
    merge,
    save_adapter,
    use,
)
from tests.structured.adapters.helpers import classes, logits, same, snapshot, train


def small_transformer() -> nn.Module:
    model = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=4
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return model


def small_resnet() -> nn.Module:
    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4, width_per_group=8)


IMAGES = (4, 3, 16, 16)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(3))


@pytest.mark.cover(0)
@pytest.mark.parametrize("build", [small_transformer, small_resnet])
def test_train_save_load_merge_and_detach(
    tmp_path: Path, build: type[nn.Module], pictures: Tensor, config: AdapterConfig
) -> None:
    model = train(build(), steps=1, shape=IMAGES, rate=1e-3)
    fresh = copy.deepcopy(model)
    before, kinds, base = snapshot(model), classes(model), logits(model, pictures)
    # Seven by seven taps of three channels are 147 entries, which no block of 2 or 4 divides.
    exclude = "conv1" if isinstance(model, ResNet) else ()
    attach(model, config, exclude=exclude)
    assert torch.equal(logits(model, pictures), base)
    train(model, steps=2, shape=IMAGES)
    adapted = logits(model, pictures)
    assert not torch.allclose(adapted, base, atol=1e-3)
    with torch.enable_grad():
        np.testing.assert_allclose(model(pictures).detach().numpy(), adapted.numpy(), rtol=1e-4, atol=1e-5)
    save_adapter(model, tmp_path / "a")
    assert torch.equal(logits(load_adapter(copy.deepcopy(fresh), tmp_path / "a"), pictures), adapted)
    merged = merge(copy.deepcopy(model))
    assert torch.equal(logits(merged, pictures), adapted)
    assert classes(merged) == kinds
    fresh.load_state_dict(merged.state_dict())
    assert torch.equal(logits(use(model, None), pictures), base)
    detach(model)
    assert same(before, snapshot(model))


def test_what_does_not_divide_is_named(pictures: Tensor) -> None:
    with pytest.raises(ValueError, match=r"does not fit conv1\.weight: GSOFTConfig\(.*divisible by 8 .*got 147"):
        attach(small_resnet(), GSOFTConfig(8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "config", "exclude", "trained"),
    [
        # 12 blocks: 4 weights with inputs of 768 and an MLP of 3072, and the output scales.
        (vit_b_16, GSOFTConfig(8), ("conv_proj", "heads.*"), 12 * (6912 * 16 + 6912)),
        (vit_b_16, LoRAConfig(8), ("conv_proj", "heads.*"), 12 * 8 * (4 * 2 * 768 + 2 * (768 + 3072))),
        (resnet50, GSOFTConfig(8), ("conv1", "fc"), None),
    ],
)
def test_the_real_shapes(
    build: type[nn.Module], config: AdapterConfig, exclude: tuple[str, ...], trained: int | None
) -> None:
    model = build().eval()
    image = torch.randn(1, 3, 224, 224)
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    nn.init.normal_(heads[-1].weight, std=0.02)  # torchvision starts a transformer's at zero
    base = logits(model, image)
    attach(model, config, exclude=exclude)
    if trained is not None:
        assert sum(value.numel() for value in model.parameters() if value.requires_grad) == trained
        assert f"{trained:,}" in describe(model)
    assert torch.equal(logits(model, image), base)
    model(image).logsumexp(dim=1).sum().backward()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                assert value.grad is not None
                value.add_(0.02 * torch.randn_like(value))
    adapted = logits(model, image)
    assert not torch.allclose(adapted, base, atol=1e-3)
    assert torch.equal(logits(merge(model), image), adapted)
