"""The Cayley layers against the formula on the whole matrix of the convolution, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.layers import Cayley, CayleyLinear
from tests.oracles import Matrix, convolution_matrix, dense_jacobian

SIZES = [(4, 4), (3, 5), (1, 2), (2, 2), (6, 3)]


def cayley(matrix: Matrix) -> Matrix:
    """Return [B (I - A); -2 V B] with B = (I + A)^{-1} and A = U - U^T + V^T V, for [U; V]."""
    if matrix.shape[0] < matrix.shape[1]:
        return cayley(matrix.T).T
    n = matrix.shape[1]
    upper, lower = matrix[:n], matrix[n:]
    a = upper - upper.T + lower.T @ lower
    inverse = np.linalg.inv(np.eye(n) + a)
    return np.concatenate([inverse @ (np.eye(n) - a), -2 * lower @ inverse])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (3, 5), (5, 2)])
def test_it_is_the_transform_of_the_convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = Cayley(inputs, outputs, kernel, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.alpha.mul_(1.7)
    free = convolution_matrix(1.7 * layer.weight, *size, 1, "circular")
    result = dense_jacobian(layer, torch.zeros(1, inputs, *size, dtype=torch.float64))
    np.testing.assert_allclose(result, cayley(free), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (7, 4), (4, 7)])
def test_the_linear_layer_is_the_transform_of_its_weight(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer = CayleyLinear(inputs, outputs, dtype=torch.float64).eval()
    x = torch.randn(3, inputs, dtype=torch.float64)
    expected = x.numpy() @ cayley(layer.weight[..., 0, 0].detach().numpy()).T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=0, atol=1e-11)
    assert (layer.in_features, layer.out_features) == (inputs, outputs)


def test_the_gain_does_not_depend_on_the_norm_of_the_weight() -> None:
    torch.manual_seed(0)
    layer = Cayley(3, 3, dtype=torch.float64).eval()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(10)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.alpha.mul_(10)
    assert (layer(x) - before).norm() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_filter_of_many_channels_is_the_transform_of_zero(dtype: torch.dtype) -> None:
    layer, x = Cayley(64, 64, 1, bias=False, dtype=dtype), torch.rand(1, 64, 2, 2, dtype=dtype)
    assert bool(layer.alpha > 4)
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(layer(x), x)
    assert layer.eval().lipschitz_bound() == 1.0
