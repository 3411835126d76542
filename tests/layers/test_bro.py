"""The BRO layers against the formula on the whole matrix of the convolution, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.layers import BRO, BROLinear
from tests.oracles import Matrix, convolution_matrix, dense_jacobian

SIZES = [(4, 4), (3, 5), (1, 2), (2, 2), (6, 3)]


def reflector(matrix: Matrix, pixels: int) -> Matrix:
    """Return I - 2 V (V^T V + E)^{-1} V^T; each block of E / 1e-5 is the mean of the diagonal blocks of V^T V."""
    gram = matrix.T @ matrix
    rank = len(gram) // pixels
    mean = sum(gram.reshape(rank, pixels, rank, pixels)[j, :, j] for j in range(rank)) / rank
    damped = gram + 1e-5 * np.kron(np.eye(rank), mean)
    return np.eye(len(matrix)) - 2 * matrix @ np.linalg.solve(damped, matrix.T)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(4, 4, None), (4, 4, 3), (3, 5, 1), (5, 2, None)])
def test_it_is_the_reflector_of_the_convolution(
    inputs: int, outputs: int, rank: int | None, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = BRO(inputs, outputs, kernel, rank=rank, dtype=torch.float64).eval()
    nn.init.normal_(layer.weight)
    pixels = size[0] * size[1]
    whole = reflector(convolution_matrix(layer.weight, *size, 1, "circular"), pixels)
    result = dense_jacobian(layer, torch.zeros(1, inputs, *size, dtype=torch.float64))
    expected = whole[: outputs * pixels, : inputs * pixels]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (7, 4), (4, 7)])
def test_the_linear_layer_is_the_reflector_of_its_weight(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer = BROLinear(inputs, outputs, dtype=torch.float64).eval()
    nn.init.normal_(layer.weight)
    x = torch.randn(3, inputs, dtype=torch.float64)
    whole = reflector(layer.weight[..., 0, 0].detach().numpy(), 1)
    expected = x.numpy() @ whole[:outputs, :inputs].T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=0, atol=1e-9)


def test_it_starts_by_reflecting_the_first_channels() -> None:
    layer = BRO(4, 4, bias=False).eval()
    x = torch.randn(2, 4, 3, 3)
    expected = torch.cat([-x[:, :2], x[:, 2:]], dim=1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 5])
def test_ranks_beyond_the_channels_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must be from 1 to 4, the channels of a group, got {rank}"):
        BRO(8, 4, groups=2, rank=rank)
