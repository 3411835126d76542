"""A small network with every kind of adaptable weight, and a configuration of every structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    CirculantConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    SkewCirculantConfig,
    ToeplitzConfig,
)

CONFIGS: list[AdapterConfig] = [
    LoRAConfig(rank=2, alpha=4),
    OFTConfig(4),
    BOFTConfig(4, factors=2),
    GSOFTConfig(4),
    GSOFTConfig(2, side="output", scale=False, block_map="exponential"),
    GSOFTConfig(2, factors=4, transpose=False),
    DoubleGSOFTConfig(4),
    CirculantConfig(),
    SkewCirculantConfig(),
    ToeplitzConfig(),
    KroneckerConfig(left_shape=(2, 4)),
    LowDisplacementRankConfig(rank=2),
]


class Network(nn.Module):
    """3 x 8 x 8 images to 4 classes, by k x k and 1 x 1 convolutions, attention over the pixels, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 16, kernel_size=3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 8, kernel_size=1, bias=False)
        self.attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.mix(self.norm(self.stem(x)).relu())
        pixels = maps.flatten(2).mT
        attended, _ = self.attention(pixels, pixels, pixels, need_weights=False)
        logits: Tensor = self.head((pixels + attended).mean(dim=1))
        return logits


@pytest.fixture(params=CONFIGS, ids=str)
def config(request: pytest.FixtureRequest) -> AdapterConfig:
    """Each structure."""
    assert isinstance(request.param, AdapterConfig)
    return request.param


@pytest.fixture
def network(_seed: None) -> nn.Module:
    """A network with running statistics that are not the initial ones."""
    model = Network()
    model(torch.randn(4, 8, 8, 8))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(1))
