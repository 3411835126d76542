"""The 'same' convolution against its dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.convolution import (
    _PATCH_ENTRIES,
    PADDING_MODES,
    depth_to_space,
    jacobian_matrices,
    same_convolution,
    same_convolution_weight_gradient,
    space_to_depth,
)
from tests.oracles import convolution_matrix, space_to_depth_matrix, to_numpy

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (3, 5)]


def random_filter(kernel: tuple[int, int], groups: int = 1) -> Tensor:
    return torch.randn(4, 4 // groups, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(4, 3), (3, 5), (6, 6)])
def test_against_the_dense_matrix(
    size: tuple[int, int], kernel: tuple[int, int], groups: int, padding_mode: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    y = same_convolution(x, weight, groups, padding_mode)
    assert y.shape == x.shape
    expected = to_numpy(x.flatten(1)) @ convolution_matrix(weight, *size, groups, padding_mode).T
    np.testing.assert_allclose(to_numpy(y.flatten(1)), expected, rtol=0, atol=1e-13)


def test_many_images_are_convolved_in_parts_and_with_gradients_alike() -> None:
    """Without gradients, float64 takes another path, which has room for two of these three images at a time."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, 3, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 6, 50, 50, generator=generator, dtype=torch.float64)
    assert 2 * 6 * 15 * 2500 <= _PATCH_ENTRIES < 3 * 6 * 15 * 2500
    for padding_mode in PADDING_MODES:
        y = same_convolution(x, weight, 2, padding_mode)
        differentiable = same_convolution(x.clone().requires_grad_(), weight, 2, padding_mode)
        torch.testing.assert_close(differentiable, y, rtol=0, atol=1e-13)
        assert y.is_contiguous()


@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_maps_without_pixels_get_the_error_of_torch(size: tuple[int, int]) -> None:
    weight = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        same_convolution(torch.zeros(2, 2, *size, dtype=torch.float64), weight)


def test_zero_padding_is_the_default() -> None:
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    assert same_convolution(x, weight)[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert same_convolution(x, weight, padding_mode="circular")[0, 0].tolist() == [[9] * 3] * 3


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "valid", ""])
def test_padding_that_breaks_the_adjoint_is_refused(padding_mode: str) -> None:
    with pytest.raises(ValueError, match=rf"'zeros', 'circular'.*got '{padding_mode}'"):
        same_convolution(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3), padding_mode=padding_mode)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_matrices_of_the_groups(kernel: tuple[int, int], groups: int, padding_mode: str) -> None:
    weight = random_filter(kernel, groups)
    for size in ((2, 2), (2, 3), (5, 4)):
        matrices = jacobian_matrices(weight, size, groups, padding_mode)
        assert matrices.shape == (groups, 4 // groups * size[0] * size[1], 4 // groups * size[0] * size[1])
        for matrix, part in zip(matrices, weight.chunk(groups), strict=True):
            expected = convolution_matrix(part, *size, padding_mode=padding_mode)
            np.testing.assert_allclose(to_numpy(matrix), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_matrices_on_a_single_pixel(padding_mode: str) -> None:
    for kernel in ((1, 1), (3, 3), (1, 3)):
        weight = random_filter(kernel, 2)
        for matrix, part in zip(jacobian_matrices(weight, (1, 1), 2, padding_mode), weight.chunk(2), strict=True):
            np.testing.assert_allclose(
                to_numpy(matrix), convolution_matrix(part, 1, 1, padding_mode=padding_mode), rtol=0, atol=1e-15
            )


def test_matrices_of_filters_in_another_layout() -> None:
    for kernel, size in (((1, 1), (1, 1)), ((3, 3), (2, 2))):
        weight = random_filter(kernel)
        expected = jacobian_matrices(weight, size)
        for same in (
            weight.contiguous(memory_format=torch.channels_last),
            weight.transpose(0, 1).clone().transpose(0, 1),
        ):
            assert torch.equal(jacobian_matrices(same, size), expected)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_of_the_filter(groups: int, padding_mode: str) -> None:
    weight = random_filter((3, 5), groups).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn(2, 4, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    (expected,) = torch.autograd.grad(same_convolution(x, weight, groups, padding_mode), weight, gradient)
    result = same_convolution_weight_gradient(x, gradient, weight.detach(), groups, padding_mode)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (1, 3), (2, 3)])
def test_space_to_depth_with_a_stride_for_each_direction(stride: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = space_to_depth(x, stride)
    assert result.shape == (2, 3 * stride[0] * stride[1], 4 // stride[0], 6 // stride[1])
    expected = to_numpy(x.flatten(1)) @ space_to_depth_matrix(3, 4, 6, stride).T
    np.testing.assert_array_equal(to_numpy(result.flatten(1)), expected)
    assert torch.equal(depth_to_space(result, stride), x)
    assert torch.equal(space_to_depth(depth_to_space(result, stride), stride), result)


def test_space_to_depth_is_pixel_unshuffle_for_equal_strides() -> None:
    x = torch.arange(96.0).view(1, 2, 6, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(space_to_depth(x, (2, 2)), F.pixel_unshuffle(x, 2))
    assert torch.equal(depth_to_space(space_to_depth(x, (2, 2)), (2, 2)), x)


def test_empty_batches_keep_their_shape() -> None:
    empty = torch.zeros(0, 3, 4, 6)
    assert space_to_depth(empty, (2, 3)).shape == (0, 18, 2, 2)
    assert depth_to_space(torch.zeros(0, 18, 2, 2), (2, 3)).shape == (0, 3, 4, 6)
    assert same_convolution(empty, torch.zeros(3, 3, 3, 3)).shape == (0, 3, 4, 6)


def test_circular_padding_wraps_once() -> None:
    weight = random_filter((1, 7))
    assert same_convolution(torch.zeros(1, 4, 1, 3, dtype=torch.float64), weight, 1, "circular").shape == (1, 4, 1, 3)
    with pytest.raises(ValueError, match=r"maps must have at least 0 x 3 pixels .*, got 1 x 2"):
        same_convolution(torch.zeros(1, 4, 1, 2, dtype=torch.float64), weight, 1, "circular")
