"""Under autocast, feature maps stay in bfloat16 through all layers of a training step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lipnet.layers import (
    BetaAbs,
    Centering,
    Householder,
    HouseholderOrder2,
    LiRes,
    MaxMin,
    NormalizedLinear,
    NormPool2d,
    OrthogonalMixing,
    PatchEmbedding,
    PositionCode,
    Sandwich,
    SOCTranspose,
    SpatialMixing,
)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "beta-abs": BetaAbs,
    "centering": lambda: Centering(8),
    "householder": lambda: Householder(8),
    "householder of order 2": lambda: HouseholderOrder2(8),
    "lires": lambda: LiRes(8, 8),
    "maxmin": MaxMin,
    "mixing": lambda: OrthogonalMixing(8),
    "patches": lambda: PatchEmbedding(8, 2, 32, rotation=True),
    "pooling": lambda: NormPool2d(4),
    "position code": lambda: PositionCode(8, 4),
    "spatial mixing": lambda: SpatialMixing(8, groups=2, share=0.25),
    "transpose": lambda: SOCTranspose(8, 8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_maps_stay_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    layer, x = LAYERS[name](), torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = layer(x.bfloat16())
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), layer(x), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("kind", [NormalizedLinear, Sandwich])
def test_features_stay_in_bfloat16(kind: Callable[[int, int], nn.Module]) -> None:
    torch.manual_seed(0)
    layer, x = kind(8, 5), torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = layer(x.bfloat16())
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), layer(x), rtol=0.02, atol=0.1)
