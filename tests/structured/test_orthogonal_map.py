"""The orthogonal map on channels against its Jacobian, and its bound as part of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.certify import lipschitz_bound
from lipnet.layers import SOC, MaxMin
from lipnet.structured import OrthogonalMap, boft, gsoft
from lipnet.structured.blocks import Mixing
from tests.oracles import channel_matrix, dense_jacobian, spectral_norm, to_numpy


def random_map(dtype: torch.dtype = torch.float64) -> OrthogonalMap:
    layer = OrthogonalMap(gsoft(8, 2, dtype=dtype))
    with torch.no_grad():
        generators = layer.matrix.generators
        generators.copy_(torch.randn(generators.shape, generator=torch.Generator().manual_seed(0)))
    return layer


@pytest.mark.parametrize("size", [(), (5,), (3, 2)])
def test_the_jacobian_is_the_matrix_at_every_pixel(size: tuple[int, ...]) -> None:
    layer = random_map()
    jacobian = dense_jacobian(layer, torch.zeros(1, 8, *size, dtype=torch.float64))
    pixels = int(np.prod(size))
    np.testing.assert_allclose(jacobian, channel_matrix(to_numpy(layer.matrix.to_dense()), pixels), atol=1e-14)
    np.testing.assert_allclose(jacobian.T @ jacobian, np.eye(8 * pixels), atol=1e-13)


@pytest.mark.parametrize(("dtype", "room"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_bound_is_computed_from_the_rounded_blocks(dtype: torch.dtype, room: float) -> None:
    layer = random_map(dtype)
    assert spectral_norm(to_numpy(layer.matrix.to_dense().double())) <= layer.lipschitz_bound() + 1e-6
    assert 1 < layer.lipschitz_bound() <= 1 + room
    assert lipschitz_bound(nn.Sequential(layer, layer).eval()) >= layer.lipschitz_bound() ** 2 * (1 - 1e-15)


def test_between_layers_it_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    first, second = SOC(8, 8), SOC(8, 8)
    plain = nn.Sequential(first, MaxMin(), second).eval()
    adapted = nn.Sequential(first, OrthogonalMap(boft(8, 2, 3)), MaxMin(), second).eval()
    x = torch.rand(2, 8, 6, 6)
    assert torch.equal(adapted(x), plain(x))
    assert 1 <= lipschitz_bound(adapted) <= 1 + 1e-5


def test_an_empty_batch() -> None:
    assert random_map()(torch.zeros(0, 8, 3, 3, dtype=torch.float64)).shape == (0, 8, 3, 3)


@pytest.mark.parametrize("shape", [(8,), (2, 4, 3, 3), (2, 3, 8)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"input of shape \(B, 8, \.\.\.\), got \({shape[0]},"):
        random_map()(torch.zeros(shape, dtype=torch.float64))


class Doubling(Mixing):
    def scatter(self, blocks: torch.Tensor) -> torch.Tensor:
        return 2 * super().scatter(blocks)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "block size": (
        {"block_size": 1, "mixings": (Mixing(), Mixing())},
        r"generators must have shape \(2, 8, 1, 1\) for the layer's settings",
    ),
    "features": ({"features": 16}, r"generators must have shape \(2, 8, 2, 2\) for the layer's settings"),
    "fewer factors": ({"mixings": (Mixing(),)}, r"generators must have shape \(1, 4, 2, 2\) for the layer's settings"),
    "another class of mixings": ({"mixings": (Mixing(), Doubling(2, 4))}, "of the class Mixing or ShufflePower, got"),
    "a mixing of other sizes": ({"mixings": (Mixing(), Mixing(2, 3))}, "features must be divisible by 6"),
    "block map": ({"block_map": "identity"}, "block_map must be one of"),
    "generators": (
        {"generators": nn.Parameter(torch.zeros(2, 4, 4, 4))},
        r"generators must have shape \(2, 4, 2, 2\) for the layer's settings, got \(2, 4, 4, 4\)",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_that_contradict_each_other_or_the_generators_are_refused(name: str) -> None:
    layer, (changes, message) = random_map().eval(), CHANGES[name]
    for key, value in changes.items():
        setattr(layer.matrix, key, value)
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(layer)
    with pytest.raises(ValueError, match=message):
        layer.matrix(torch.zeros(layer.matrix.features, 3, dtype=torch.float64))
