"""BCOP against a product of dense projectors, shifts and an orthogonal matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import polar
from torch import nn

from lipnet.layers import BCOP
from lipnet.layers.bcop import BlockKernel
from tests.oracles import Matrix, convolution_matrix, dense_jacobian, to_numpy

SIZE = (4, 5)


def shift(axis: int, pixels: int) -> Matrix:
    """The matrix of (Z x)[u] = x[u + pixels] on circular maps of SIZE, along rows or columns."""
    turns = [np.eye(length) for length in SIZE]
    turns[axis] = np.roll(turns[axis], pixels, axis=1)
    return np.asarray(np.kron(turns[0], turns[1]))


def product_matrix(block: BlockKernel) -> Matrix:
    """shift^-1 prod (P + (I - P) Z) H for one group, with projectors on the range of each basis."""
    pixels = np.eye(SIZE[0] * SIZE[1])
    result = np.kron(polar(to_numpy(block.matrix[0]))[0], pixels)
    kh, kw = block.kernel_size
    turns = [(step, axis) for step in range(max(kh, kw)) for axis in (0, 1) if step < (kh - 1, kw - 1)[axis]]
    for (step, axis), basis in zip(turns, block.bases[:, 0], strict=True):
        span = np.linalg.qr(to_numpy(basis))[0]
        inside = span @ span.T
        outside = np.eye(len(inside)) - inside
        first, second = (inside, outside) if step % 2 == 0 else (outside, inside)
        result = (np.kron(first, pixels) + np.kron(second, shift(axis, 1))) @ result
    centre = shift(0, -(kh // 2)) @ shift(1, -(kw // 2))
    result = np.kron(np.eye(len(result) // len(pixels)), centre) @ result
    return result.T if block.reduces else result


@pytest.mark.parametrize(
    ("channels", "kernel"),
    [((4, 4), 3), ((4, 6), 3), ((6, 4), 3), ((4, 4), (5, 3)), ((3, 3), 3), ((4, 2), 1), ((1, 1), 3), ((2, 4), (1, 3))],
)
def test_the_kernel_is_the_product_of_its_factors(channels: tuple[int, int], kernel: Any) -> None:
    layer = BCOP(*channels, kernel_size=kernel, padding_mode="circular", dtype=torch.float64).eval()
    for parameter in layer.block.parameters():
        nn.init.normal_(parameter)
        with torch.no_grad():
            # Well conditioned, so that ten Newton-Schulz steps are exact.
            parameter += 2 * torch.eye(*parameter.shape[-2:])
    matrix = convolution_matrix(layer.operands(SIZE)[0], *SIZE, padding_mode="circular")
    np.testing.assert_allclose(matrix, product_matrix(layer.block), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        ((4, 6), {}),
        ((6, 4), {"groups": 2}),
        ((2, 8), {"stride": 2}),
        ((2, 6), {"stride": 2}),
        ((4, 4), {"stride": (2, 1)}),
    ],
)
def test_circular_padding_makes_it_orthogonal(
    channels: tuple[int, int], settings: dict[str, Any], dtype: torch.dtype
) -> None:
    layer = BCOP(*channels, padding_mode="circular", dtype=dtype, **settings).eval()
    jacobian = dense_jacobian(layer, torch.randn(1, channels[0], 6, 4, dtype=dtype))
    singular_values = np.linalg.svd(jacobian, compute_uv=False)
    tolerance = 4 * torch.finfo(dtype).eps
    np.testing.assert_allclose(singular_values, 1, rtol=0, atol=tolerance)
    assert singular_values.max() <= layer.lipschitz_bound() * (1 + 1e-12) <= 1 + 1e-6


def test_zero_padding_makes_it_a_contraction() -> None:
    layer = BCOP(4, 4, dtype=torch.float64).eval()
    singular_values = np.linalg.svd(dense_jacobian(layer, torch.zeros(1, 4, 5, 5).double()), compute_uv=False)
    assert singular_values.min() < 0.9
    assert singular_values.max() <= layer.lipschitz_bound() <= 1 + 1e-11


def test_weights_without_full_rank_make_a_contraction() -> None:
    layer = BCOP(4, 4, padding_mode="circular", dtype=torch.float64).eval()
    for parameter in layer.block.parameters():
        nn.init.ones_(parameter)
    norm = np.linalg.norm(dense_jacobian(layer, torch.zeros(1, 4, 4, 4).double()), ord=2)
    # Within the 4 per cent of the frequency response, instead of sqrt(2) from the residual.
    assert norm <= layer.lipschitz_bound() <= 1.04
