"""The Gram operator of a convolution against dense matrices, and the two bounds that follow from it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional.autocorrelation import (
    absolute_gram,
    adjoint_filter,
    autocorrelation,
    dominance_bound,
    orthogonality_bound,
)
from lipnet.functional.block_convolution import orthogonal_kernel, with_stride, without_stride
from lipnet.functional.norm_bounds import gram_norm_bound
from lipnet.functional.orthogonal_matrices import polar_factor
from tests.oracles import convolution_matrix, spectral_norm, symbol_supremum, to_numpy

# Output channels, input channels, groups, kernel.
SHAPES = [(6, 4, 2, (3, 3)), (3, 5, 1, (3, 5)), (4, 4, 1, (1, 1)), (2, 6, 2, (1, 3)), (5, 2, 1, (5, 1))]
SIZE = (9, 10)


def random_filter(outputs: int, inputs: int, groups: int, kernel: tuple[int, int]) -> Tensor:
    return torch.randn(outputs, inputs // groups, *kernel, dtype=torch.float64)


@pytest.mark.parametrize(("outputs", "inputs", "groups", "kernel"), SHAPES)
def test_the_absolute_gram_sums_the_dense_one(outputs: int, inputs: int, groups: int, kernel: tuple[int, int]) -> None:
    weight = random_filter(outputs, inputs, groups, kernel)
    # On maps larger than twice the kernel no two offsets fall together.
    matrix = convolution_matrix(weight, *SIZE, groups, "circular")
    gram = (matrix.T @ matrix).reshape(inputs, -1, inputs, SIZE[0] * SIZE[1])
    expected = np.abs(gram[:, 0]).sum(axis=-1)
    computed = torch.block_diag(*absolute_gram(weight, groups))
    np.testing.assert_allclose(to_numpy(computed), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("outputs", "inputs", "groups", "kernel"), SHAPES)
def test_the_first_tap_is_the_gram_matrix_of_each_group(
    outputs: int, inputs: int, groups: int, kernel: tuple[int, int]
) -> None:
    weight = random_filter(outputs, inputs, groups, kernel)
    blocks = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(autocorrelation(weight, groups)[0], blocks @ blocks.mT)


@pytest.mark.parametrize(("outputs", "inputs", "groups", "kernel"), SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bounds_are_not_below_the_norm(
    outputs: int, inputs: int, groups: int, kernel: tuple[int, int], scale: float
) -> None:
    weight = scale * random_filter(outputs, inputs, groups, kernel)
    supremum = symbol_supremum(weight, groups)
    norm = spectral_norm(convolution_matrix(weight, *SIZE, groups)) * (1 - 1e-12)
    assert norm <= supremum
    assert supremum <= dominance_bound(weight, groups)
    assert supremum <= orthogonality_bound(weight, groups)


def test_the_dominance_bound_is_the_spectral_radius_of_the_absolute_gram() -> None:
    weight = random_filter(6, 4, 1, (3, 3))
    radius = np.abs(np.linalg.eigvals(to_numpy(absolute_gram(weight)[0]))).max()
    assert radius <= dominance_bound(weight) ** 2 <= radius * (1 + 1e-9)
    assert dominance_bound(torch.zeros(3, 2, 3, 3)) < 1e-100


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5), (2, 6, 4)])
def test_the_gram_norm_bound_is_the_norm(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(matrices, ord=2).max())
    assert norm <= gram_norm_bound(matrices) <= norm * (1 + 1e-8)
    assert gram_norm_bound(torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_the_adjoint_filter_is_the_transposed_matrix(groups: int) -> None:
    weight = random_filter(6, 4, groups, (3, 5))
    for mode in ("zeros", "circular"):
        matrix = convolution_matrix(weight, 6, 7, groups, mode)
        adjoint = convolution_matrix(adjoint_filter(weight, groups), 6, 7, groups, mode)
        np.testing.assert_array_equal(adjoint, matrix.T)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4), (2, 5, 3)])
def test_the_polar_factor_is_the_nearest_orthogonal_matrix(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(polar_factor(matrices, steps=16), left @ right)
    assert torch.autograd.gradcheck(polar_factor, (matrices.requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 0.0])
def test_the_polar_factor_never_exceeds_norm_one(scale: float) -> None:
    for matrix in (torch.randn(8, 8), torch.randn(8, 1) @ torch.randn(1, 8), torch.ones(6, 4)):
        for steps in (0, 1, 3, 10):
            norm = torch.linalg.matrix_norm(polar_factor(scale * matrix.double(), steps), ord=2)
            assert float(norm) <= 1 + 1e-14


def test_a_kernel_of_orthogonal_factors_is_orthogonal() -> None:
    first = polar_factor(torch.randn(2, 4, 3, dtype=torch.float64), 16)
    bases = polar_factor(torch.randn(6, 2, 4, 2, dtype=torch.float64), 16)
    kernel = orthogonal_kernel(first, bases, (5, 3))
    assert kernel.shape == (8, 3, 5, 3)
    matrix = convolution_matrix(kernel, 5, 6, 2, "circular")
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(len(matrix.T)), atol=1e-13)
    assert orthogonality_bound(kernel, 2) <= 1 + 1e-11


@pytest.mark.parametrize("groups", [1, 2])
def test_with_stride_is_one_convolution_after_another(groups: int) -> None:
    kernel, reduction = random_filter(6, 4, groups, (2, 3)), random_filter(8, 6, groups, (3, 2))
    x = torch.randn(2, 4, 10, 12, dtype=torch.float64)
    once = torch.nn.functional.conv2d(x, kernel, groups=groups)
    expected = torch.nn.functional.conv2d(once, reduction, stride=(3, 2), groups=groups)
    composed = torch.nn.functional.conv2d(x, with_stride(reduction, kernel, groups), stride=(3, 2), groups=groups)
    torch.testing.assert_close(composed, expected)


@pytest.mark.parametrize("dilation", [(1, 1), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_without_stride_is_the_same_map_after_space_to_depth(dilation: tuple[int, int], groups: int) -> None:
    weight, stride = random_filter(4, 4, groups, (3, 2)), (2, 3)
    x = torch.randn(1, 4, 12, 18, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, weight, stride=stride, dilation=dilation, groups=groups)
    moved = x.view(1, 4, 6, 2, 6, 3).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    result = torch.nn.functional.conv2d(moved, without_stride(weight, stride, dilation), groups=groups)
    rows, columns = min(expected.shape[2], result.shape[2]), min(expected.shape[3], result.shape[3])
    torch.testing.assert_close(result[..., :rows, :columns], expected[..., :rows, :columns])
    assert min(rows, columns) >= 3


def test_the_orthogonality_bound_counts_every_offset() -> None:
    """A residual at a single offset is noticed, with the norm that it has."""
    kernel = orthogonal_kernel(
        polar_factor(torch.randn(1, 4, 4, dtype=torch.float64), 20),
        polar_factor(torch.randn(4, 1, 4, 2, dtype=torch.float64), 20),
        (3, 3),
    )
    for place in np.ndindex(3, 3):
        changed = kernel.clone()
        changed[0, 0, place[0], place[1]] += 1e-3
        assert orthogonality_bound(changed) >= symbol_supremum(changed, points=64) > 1
