"""Constants of another shape than the layer's channels are refused: torch would repeat the maps, with a larger norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipnet.layers import (
    SOC,
    AOLLinear,
    Cayley,
    Centering,
    Householder,
    HouseholderOrder2,
    Normalize,
    PositionCode,
    ScaledConv2d,
    SOCLinear,
    SOCTranspose,
)
from lipnet.layers.orthogonal_mixing import OrthogonalMixing


def constants(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape", "name", "value"),
    [
        (SOC(4, 1), (4, 4, 4), "bias", constants(3)),
        (SOC(4, 1), (4, 4, 4), "bias", constants(1, 1)),
        (SOC(4, 3), (4, 4, 4), "bias", constants(1)),
        (SOCLinear(4, 1), (4,), "bias", constants(3)),
        (SOCTranspose(4, 1, stride=2), (4, 2, 2), "bias", constants(3)),
        (SOCTranspose(1, 1), (1, 2, 2), "input_bias", constants(3)),
        # Of the kept channels, one is left, to which two biases would be added.
        (SOCTranspose(8, 2, stride=2), (8, 2, 2), "channels_out", 4),
        (AOLLinear(4, 1), (4,), "bias", constants(3)),
        (Cayley(4, 1, padding_mode="circular"), (4, 4, 4), "bias", constants(3)),
        (ScaledConv2d(4, 1), (4, 4, 4), "bias", constants(3)),
        (OrthogonalMixing(1), (1, 2, 2), "bias", constants(3)),
        (Centering(1), (1, 2, 2), "mean", torch.zeros(1, 3)),
        (Householder(2), (2, 2, 2), "theta", constants(3)),
        (HouseholderOrder2(2), (2, 2, 2), "theta", constants(3, 3)),
        (PositionCode(1, 4), (1, 4, 4), "columns", constants(3, 1, 1)),
        (PositionCode(1, 4), (1, 4, 4), "rows", constants(1, 4, 4)),
        (Normalize([0.5], 0.2), (1, 4, 4), "mean", torch.zeros(1, 3, 1, 1)),
    ],
)
def test_they_are_refused(layer: nn.Module, shape: tuple[int, ...], name: str, value: Tensor, training: bool) -> None:
    layer.train(training)
    x = torch.rand(2, *shape)
    before = getattr(layer, name)
    layer(x)
    setattr(layer, name, value)
    try:
        with pytest.raises(
            ValueError, match=r"needed for each of \d+ channels|must have shape|needs an input of shape"
        ):
            layer(x)
    finally:
        setattr(layer, name, before)
