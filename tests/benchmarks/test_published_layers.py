"""The transcribed layers have the norms that their papers prove."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.published_layers import (
    FrequencyLayer,
    PublishedBRO,
    PublishedCayley,
    PublishedCPL,
    PublishedLOT,
    PublishedSLL,
)
from tests.oracles import dense_jacobian

ORTHOGONAL = [PublishedCayley, PublishedLOT, PublishedBRO]
CONTRACTIONS = [PublishedCPL, PublishedSLL]


def singular_values(layer: nn.Module, channels: int, size: tuple[int, int]) -> np.ndarray:
    x = torch.randn(1, channels, *size, dtype=torch.float64)
    return np.linalg.svd(dense_jacobian(layer.double().eval(), x), compute_uv=False)


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((2, 6), 1), ((6, 2), 1), ((2, 4), 2)])
@pytest.mark.parametrize(("kernel_size", "size"), [(1, (4, 6)), (3, (4, 6)), (3, (2, 2))])
def test_frequency_layers_are_orthogonal(
    kind: type[FrequencyLayer], channels: tuple[int, int], stride: int, kernel_size: int, size: tuple[int, int]
) -> None:
    values = singular_values(kind(*channels, kernel_size, stride), channels[0], (stride * size[0], stride * size[1]))
    if kind is PublishedBRO:
        # A square block of an orthogonal matrix: zero channels in are an isometry, channels cut a contraction.
        assert values.max() <= 1 + 1e-12
        assert channels[0] * stride**2 > channels[1] or values.min() > 0.99
    else:
        # Newton-Schulz converges from below, and slowly for small singular values.
        assert values.max() <= 1 + 1e-9
        assert kind is PublishedLOT or values.min() >= 1 - 1e-9


def test_newton_schulz_converges() -> None:
    layer = PublishedLOT(2, 6, 3, 1)
    layer.steps = 40
    assert np.abs(singular_values(layer, 2, (4, 4)) - 1).max() < 1e-9


@pytest.mark.parametrize("kind", CONTRACTIONS)
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((2, 6), 1), ((2, 4), 2)])
def test_potential_layers_are_contractions(kind: type[nn.Module], channels: tuple[int, int], stride: int) -> None:
    values = singular_values(kind(*channels, 3, stride), channels[0], (4 * stride, 4 * stride))
    assert 0.5 < values.max() <= 1 + 1e-9


@pytest.mark.parametrize("kind", [*ORTHOGONAL, *CONTRACTIONS])
def test_training_follows_the_weights_and_evaluation_keeps_its_operands(kind: type[nn.Module]) -> None:
    layer, x = kind(4, 4, 3, 1), torch.randn(2, 4, 6, 6)
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0
    with torch.no_grad():
        before = layer.eval()(x)
        assert layer(x).equal(before)
        layer.weight.mul_(2).add_(0.1)
        assert not layer.train().eval()(x).allclose(before)
