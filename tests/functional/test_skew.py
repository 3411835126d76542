"""Skew filters against the transposes of dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.functional import PADDING_MODES
from lipnet.functional.skew import adjoint_filter, half_filter, minus_adjoint, skew_filter
from tests.oracles import convolution_matrix

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 5), (5, 3)]


def random_filter(groups: int, kernel: tuple[int, int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 6 // groups, *kernel, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_transposed_filter_has_the_transposed_matrix(
    kernel: tuple[int, int], groups: int, padding_mode: str
) -> None:
    weight = random_filter(groups, kernel)
    matrix = convolution_matrix(weight, 4, 3, groups, padding_mode)
    transposed = convolution_matrix(adjoint_filter(weight, groups), 4, 3, groups, padding_mode)
    np.testing.assert_allclose(transposed, matrix.T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_skew_filter_has_the_skew_part_of_the_matrix(
    kernel: tuple[int, int], groups: int, padding_mode: str
) -> None:
    weight = random_filter(groups, kernel)
    matrix = convolution_matrix(weight, 4, 3, groups, padding_mode)
    skew = convolution_matrix(skew_filter(weight, groups), 4, 3, groups, padding_mode)
    np.testing.assert_allclose(skew, (matrix - matrix.T) / 2, rtol=0, atol=1e-15)


def test_the_formula_index_by_index() -> None:
    weight = random_filter(1, (5, 3))
    expected = torch.empty_like(weight)
    for o, i, a, b in np.ndindex(*weight.shape):
        expected[o, i, a, b] = weight[i, o, 4 - a, 2 - b]
    assert torch.equal(adjoint_filter(weight), expected)
    assert torch.equal(skew_filter(weight), (weight - expected) / 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposing_twice_and_taking_the_skew_part_twice(groups: int) -> None:
    weight = random_filter(groups, (3, 3))
    assert torch.equal(adjoint_filter(adjoint_filter(weight, groups), groups), weight)
    skew = skew_filter(weight, groups)
    assert torch.equal(skew_filter(skew, groups), skew)
    assert torch.equal(adjoint_filter(skew, groups), -skew)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_skewness_is_exact_in_every_dtype(dtype: torch.dtype) -> None:
    skew = skew_filter(random_filter(1, (3, 3)).to(dtype))
    assert skew.dtype == dtype
    assert torch.equal(adjoint_filter(skew), -skew)


@pytest.mark.parametrize(("groups", "kernel"), [(1, (1, 1)), (2, (3, 1)), (3, (3, 3))])
def test_gradients_of_both_orders(groups: int, kernel: tuple[int, int]) -> None:
    weight = random_filter(groups, kernel).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: skew_filter(w, groups), (weight,))
    assert torch.autograd.gradgradcheck(lambda w: skew_filter(w, groups), (weight,))


def test_the_projection_is_its_own_adjoint() -> None:
    weight, cotangent = random_filter(2, (3, 5)).requires_grad_(), random_filter(2, (3, 5), seed=1)
    (gradient,) = torch.autograd.grad(skew_filter(weight, 2), weight, cotangent)
    assert torch.equal(gradient, skew_filter(cotangent, 2))


def test_function_transforms() -> None:
    weights = torch.stack([random_filter(2, (3, 3), seed) for seed in range(3)])
    expected = torch.stack([skew_filter(weight, 2) for weight in weights])
    assert torch.equal(torch.func.vmap(lambda w: skew_filter(w, 2))(weights), expected)
    last = torch.func.vmap(lambda w: skew_filter(w, 2), in_dims=4)(weights.movedim(0, 4))
    assert torch.equal(last, expected)
    jacobian = torch.func.jacrev(lambda w: skew_filter(w, 2))(weights[0]).flatten(4).flatten(0, 3)
    batched = torch.autograd.functional.jacobian(lambda w: skew_filter(w, 2), weights[0], vectorize=True)
    assert torch.equal(batched.flatten(4).flatten(0, 3), jacobian)
    # An orthogonal projection, of the rank that skew matrices of 3 x 3 channels and 9 taps have, in two groups.
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-15)
    torch.testing.assert_close(jacobian @ jacobian, jacobian, rtol=0, atol=1e-15)
    assert float(jacobian.trace()) == pytest.approx(2 * (3 * 3 * 9 - 3) / 2)
    gradients = torch.func.vmap(torch.func.grad(lambda w: skew_filter(w, 2).square().sum()))(weights)
    torch.testing.assert_close(gradients, 2 * expected, rtol=1e-15, atol=1e-15)


def test_a_weight_in_another_layout() -> None:
    weight = random_filter(2, (3, 3))
    for same in (weight.contiguous(memory_format=torch.channels_last), weight.mT.contiguous().mT):
        assert torch.equal(skew_filter(same, 2), skew_filter(weight, 2))
        assert torch.equal(adjoint_filter(same, 2), adjoint_filter(weight, 2))


def test_the_weight_is_not_changed() -> None:
    weight = random_filter(2, (3, 3))
    before = weight.clone()
    skew_filter(weight, 2).zero_()
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(400, 1, (3, 3)), (1100, 1, (1, 1)), (600, 2, (3, 3))])
def test_large_filters_are_turned_in_blocks_to_the_same_bits(
    channels: int, groups: int, kernel: tuple[int, int]
) -> None:
    """The size is no multiple of a block length. Non-contiguous filters and in-place results are tested, too."""
    weight = torch.randn(channels, channels // groups, *kernel, generator=torch.Generator().manual_seed(0))
    assert weight.numel() > 2**20
    expected = weight - adjoint_filter(weight, groups)
    assert torch.equal(minus_adjoint(weight, groups), expected)
    assert torch.equal(minus_adjoint(weight.to(memory_format=torch.channels_last), groups), expected)
    in_place = weight.clone()
    assert minus_adjoint(in_place, groups, in_place=True).data_ptr() == in_place.data_ptr()
    assert torch.equal(in_place, expected)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_half_of_the_entries_have_the_same_skew_part(kernel: tuple[int, int], groups: int) -> None:
    weight = random_filter(groups, kernel)
    half = half_filter(weight, groups)
    assert torch.equal(minus_adjoint(half, groups), minus_adjoint(weight, groups))
    assert torch.equal(half_filter(half, groups), half)
    # The center of the kernel of a channel with itself has no partner.
    assert int((half != 0).sum()) == (weight.numel() - 6) / 2
