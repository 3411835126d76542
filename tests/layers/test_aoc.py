"""AOC: orthogonal with stride, groups and dilation, and equal to one convolution after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipnet.functional.orthogonal_matrices import polar_factor
from lipnet.layers import AOC, BCOP
from tests.oracles import dense_jacobian

SIZE = (6, 12)


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        ((4, 6), {}),
        ((6, 4), {"groups": 2}),
        ((4, 8), {"stride": 2, "groups": 2}),  # 16 channels' worth of pixels to 8
        ((2, 16), {"stride": 2}),  # 8 to 16
        ((3, 13), {"stride": 2}),  # 12 to 13
        ((3, 12), {"stride": 2, "kernel_size": 1}),
        ((2, 18), {"stride": 3, "kernel_size": 1}),
        ((2, 18), {"stride": 3, "kernel_size": (1, 3)}),
        ((2, 6), {"stride": (2, 1), "kernel_size": 5}),
        ((2, 12), {"stride": 3, "kernel_size": 5}),
        ((2, 12), {"stride": (2, 3), "kernel_size": (1, 3)}),
        ((3, 4), {"dilation": 2}),
        ((4, 6), {"dilation": 3, "stride": 2}),
        ((2, 12), {"dilation": (1, 3), "stride": 2}),
    ],
)
def test_circular_padding_makes_it_orthogonal(channels: tuple[int, int], settings: dict[str, Any]) -> None:
    layer = AOC(*channels, padding_mode="circular", dtype=torch.float64, **settings).eval()
    x = torch.randn(1, channels[0], *SIZE, dtype=torch.float64)
    stride = layer.stride
    assert layer(x).shape == (1, channels[1], SIZE[0] // stride[0], SIZE[1] // stride[1])
    np.testing.assert_allclose(np.linalg.svd(dense_jacobian(layer, x), compute_uv=False), 1, atol=1e-13)
    assert 1 <= layer.lipschitz_bound() <= 1 + 1e-11
    zeros = AOC(*channels, dtype=torch.float64, **settings).eval()
    zeros.load_state_dict(layer.state_dict())
    assert np.linalg.norm(dense_jacobian(zeros, x), ord=2) <= zeros.lipschitz_bound() == layer.lipschitz_bound()


def test_it_is_a_block_convolution_and_a_reduction() -> None:
    layer = AOC(4, 8, stride=2, groups=2, bias=False, dtype=torch.float64).eval()
    assert layer.block is not None
    assert layer.reduction is not None
    block = layer.block.kernel(layer.block.matrix, layer.block.bases)
    reduction = polar_factor(layer.reduction).reshape(8, 2, 2, 2)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    between = F.conv2d(F.pad(x, (1, 1, 1, 1)), block, groups=2)
    torch.testing.assert_close(layer(x), F.conv2d(between, reduction, stride=2, groups=2)[..., :4, :4])


def test_without_a_stride_it_is_bcop() -> None:
    layer, block = AOC(4, 6), BCOP(4, 6)
    block.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(layer.eval()(x), block.eval()(x))


@pytest.mark.parametrize(
    ("stride", "dilation", "kernel_size"), [(2, 2, 3), (2, 4, 3), ((1, 2), 2, 3), (4, 3, 3), (3, 6, 5)]
)
def test_dilations_that_skip_pixels_are_refused(stride: Any, dilation: int, kernel_size: int) -> None:
    with pytest.raises(ValueError, match=r"dilation must have no common divisor .* got dilation \(.*kernel_size"):
        AOC(4, 4, kernel_size, stride, dilation=dilation)


def test_circular_maps_smaller_than_the_padding_are_refused() -> None:
    with pytest.raises(ValueError, match=r"maps must have at least 3 x 3 pixels .*, got 2 x 2"):
        AOC(2, 2, dilation=3, padding_mode="circular")(torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize("stride", [2, 3, (3, 2)])
def test_a_kernel_smaller_than_the_stride_maps_disjoint_patches(stride: Any) -> None:
    layer = AOC(2, 18, 1, stride, dtype=torch.float64).eval()
    matrix = dense_jacobian(layer, torch.randn(1, 2, *layer.stride, dtype=torch.float64))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-13)


def test_circular_maps_as_large_as_the_padding_are_enough() -> None:
    layer = AOC(2, 8, kernel_size=5, stride=2, padding_mode="circular", dtype=torch.float64).eval()
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    assert layer(x).shape == (1, 8, 1, 1)
    assert np.linalg.norm(dense_jacobian(layer, x), ord=2) <= layer.lipschitz_bound()
    with pytest.raises(ValueError, match="at least 2 x 2 for its kernel"):
        AOC(2, 2, kernel_size=5, padding_mode="circular")(torch.zeros(1, 2, 1, 1))
