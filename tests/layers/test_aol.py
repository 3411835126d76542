"""AOL against its formula on dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.layers import AOL, AOLLinear
from tests.oracles import Matrix, convolution_matrix, dense_jacobian, space_to_depth_matrix, spectral_norm, to_numpy

SIZE = (4, 6)


def scales(layer: AOL) -> Matrix:
    """d_i = (sum_j |W^T W|_ij)^(-1/2), from W on circular maps on which no offsets coincide."""
    matrix = convolution_matrix(layer.weight, 7, 8, layer.groups, "circular")
    sums = np.abs(matrix.T @ matrix).sum(axis=1).reshape(-1, 7 * 8)
    np.testing.assert_allclose(sums, sums[:, :1].repeat(7 * 8, axis=1))
    return np.asarray(sums[:, 0] ** -0.5)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        ((4, 6), {}),
        ((6, 4), {"groups": 2}),
        ((2, 6), {"stride": 2}),
        ((4, 4), {"stride": (1, 2), "groups": 2, "kernel_size": (3, 1)}),
        ((4, 4), {"kernel_size": 1}),
    ],
)
def test_jacobian_is_the_rescaled_matrix(
    channels: tuple[int, int], settings: dict[str, Any], padding_mode: str
) -> None:
    layer = AOL(*channels, padding_mode=padding_mode, dtype=torch.float64, **settings).eval()
    nn.init.normal_(layer.weight)
    down, across = layer.stride
    size = (SIZE[0] // down, SIZE[1] // across)
    matrix = convolution_matrix(layer.weight, *size, layer.groups, padding_mode)
    expected = (
        matrix * scales(layer).repeat(size[0] * size[1]) @ space_to_depth_matrix(channels[0], *SIZE, layer.stride)
    )
    jacobian = dense_jacobian(layer, torch.randn(1, channels[0], *SIZE, dtype=torch.float64))
    np.testing.assert_allclose(jacobian, expected, atol=1e-14)
    assert spectral_norm(jacobian) <= layer.lipschitz_bound() <= 1 + 1e-11


def test_the_bound_is_reached() -> None:
    """Columns that all correlate positively lose nothing by the absolute values."""
    layer = AOL(4, 4, padding_mode="circular", dtype=torch.float64).eval()
    nn.init.uniform_(layer.weight)
    assert spectral_norm(dense_jacobian(layer, torch.zeros(1, 4, 3, 3, dtype=torch.float64))) == pytest.approx(1)


def test_orthogonal_columns_are_not_changed() -> None:
    layer = AOL(3, 8, dtype=torch.float64).eval()
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[:, :, 1, 1] = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(layer.operands((4, 4))[0], layer.weight.detach())


def test_it_starts_as_the_identity() -> None:
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(AOL(4, 4)(x), x)


def test_channels_of_zeros_stay_zeros() -> None:
    layer = AOL(4, 4)
    nn.init.normal_(layer.weight)
    with torch.no_grad():
        layer.weight[:, 2] = 0
    kernel = layer.operands((4, 4))[0]
    assert bool((kernel[:, 2] == 0).all())
    assert bool(kernel.isfinite().all())
    kernel.sum().backward()
    assert bool(layer.weight.grad.isfinite().all())


def test_linear_is_the_rescaled_matrix() -> None:
    layer = AOLLinear(6, 4, dtype=torch.float64).eval()
    nn.init.normal_(layer.weight)
    weight = to_numpy(layer.weight)
    expected = weight / np.sqrt(np.abs(weight.T @ weight).sum(axis=1))
    x = torch.randn(3, 6, dtype=torch.float64)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(x) @ expected.T + to_numpy(layer.bias))
    assert spectral_norm(expected) <= layer.lipschitz_bound() <= 1 + 1e-11
    assert (layer.in_features, layer.out_features) == (6, 4)
