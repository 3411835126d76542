"""The skew part of a filter, scaled to a norm, against the formula differentiated by plain autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import skew_filter
from lipnet.functional.norm_estimates import top_vectors
from lipnet.layers.scaling import SMALLEST_NORM, scaled_skew_filter
from tests.oracles import convolution_matrix, spectral_norm

SETTINGS = [((3, 3), 1, 5), ((3, 3), 2, 4), ((1, 1), 2, 1), ((1, 1), 1, 3), ((1, 3), 1, 4), ((5, 3), 2, 5)]


def filter_and_vectors(
    kernel: tuple[int, int] = (3, 3), groups: int = 2, points: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Any filter, and vectors of norm 1."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    vectors = torch.randn(groups, 4 // groups, points, points, generator=generator, dtype=torch.float64)
    return weight, vectors / vectors.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def plain(weight: Tensor, vectors: Tensor, target: float, groups: int) -> tuple[Tensor, Tensor]:
    """target / ||J v|| times each group's skew part, and J v / ||J v||, by a convolution of periodic maps."""
    channels, points = vectors.shape[1:3]
    grouped = weight.reshape(groups, channels, *weight.shape[1:])
    skew = ((grouped - grouped.transpose(1, 2).flip(3, 4)) / 2).flatten(0, 1)
    rows, columns = skew.shape[-2] // 2, skew.shape[-1] // 2
    maps = vectors.reshape(1, groups * channels, points, points)
    images = F.conv2d(F.pad(maps, (columns, columns, rows, rows), mode="circular"), skew, groups=groups)
    images = images.view(groups, channels, points, points)
    norms = images.flatten(1).norm(dim=1)
    scale = (target / norms).repeat_interleave(channels).view(-1, 1, 1, 1)
    return scale * skew, (images / norms.view(-1, 1, 1, 1)).detach()


def circular_norms(skew: Tensor, groups: int, points: int) -> list[float]:
    parts = skew.chunk(groups)
    return [spectral_norm(convolution_matrix(each, points, points, padding_mode="circular")) for each in parts]


@pytest.mark.parametrize("target", [1.4, -0.3])
@pytest.mark.parametrize(("kernel", "groups", "points"), SETTINGS)
def test_value_and_gradient_of_the_formula(kernel: tuple[int, int], groups: int, points: int, target: float) -> None:
    weight, vectors = filter_and_vectors(kernel, groups, points)
    weight.requires_grad_()
    before = weight.detach().clone(), vectors.clone()
    scaled, images = scaled_skew_filter(weight, vectors, target, groups)
    expected, expected_images = plain(weight, vectors, target, groups)
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(images, expected_images, rtol=1e-12, atol=1e-12)
    assert not images.requires_grad
    cotangent = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(scaled, weight, cotangent)
    (correct,) = torch.autograd.grad(expected, weight, cotangent)
    torch.testing.assert_close(gradient, correct, rtol=1e-12, atol=1e-12)
    assert torch.equal(weight, before[0])
    assert torch.equal(vectors, before[1])


@pytest.mark.parametrize(("kernel", "groups", "points"), SETTINGS[1:5])
def test_gradcheck(kernel: tuple[int, int], groups: int, points: int) -> None:
    weight, vectors = filter_and_vectors(kernel, groups, points)
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: scaled_skew_filter(w, vectors, -1.4, groups)[0], (weight,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_the_result_is_exactly_skew(kernel: tuple[int, int], dtype: torch.dtype) -> None:
    weight, vectors = (tensor.to(dtype) for tensor in filter_and_vectors(kernel))
    scaled, _ = scaled_skew_filter(weight, vectors, 1.4, 2)
    assert scaled.dtype is dtype
    assert torch.equal(skew_filter(scaled, 2), scaled)


@pytest.mark.parametrize("groups", [1, 2])
def test_at_a_top_singular_vector_the_norm_is_the_target(groups: int) -> None:
    weight, _ = filter_and_vectors(groups=groups)
    vectors = top_vectors(skew_filter(weight, groups), groups, 4)
    scaled, _ = scaled_skew_filter(weight, vectors, 1.4, groups)
    np.testing.assert_allclose(circular_norms(scaled, groups, 4), 1.4, rtol=1e-6)


def test_steps_follow_the_filter_to_its_norm() -> None:
    weight, vectors = filter_and_vectors()
    for _ in range(300):
        scaled, vectors = scaled_skew_filter(weight, vectors, 1.4, 2)
    np.testing.assert_allclose(circular_norms(scaled, 2, 4), 1.4, rtol=1e-3)


def test_groups_are_scaled_on_their_own() -> None:
    weight, vectors = filter_and_vectors()
    together, _ = scaled_skew_filter(weight, vectors, 1.4, 2)
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        alone, _ = scaled_skew_filter(weight[rows], vectors[group : group + 1], 1.4)
        torch.testing.assert_close(alone, together[rows], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_skew_part_of_zero_stays_zero_and_the_vectors_too(symmetric: bool) -> None:
    weight, vectors = filter_and_vectors()
    weight = weight - skew_filter(weight, 2) if symmetric else torch.zeros_like(weight)
    weight = weight.round(decimals=1) if symmetric else weight
    weight.requires_grad_()
    assert not skew_filter(weight, 2).any()
    scaled, images = scaled_skew_filter(weight, vectors, 1.4, 2)
    assert not scaled.any()
    assert torch.equal(images, vectors)
    cotangent = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(scaled, weight, cotangent)
    # Below the smallest norm the scale is a constant.
    torch.testing.assert_close(gradient, skew_filter(cotangent, 2) * (1.4 / SMALLEST_NORM), rtol=1e-12, atol=1e-3)


def test_below_the_smallest_norm_the_scale_is_constant() -> None:
    weight, vectors = filter_and_vectors()
    weight = (weight * 1e-14).requires_grad_()
    scaled, _ = scaled_skew_filter(weight, vectors, -1.4, 2)
    torch.testing.assert_close(scaled, skew_filter(weight, 2) * (-1.4 / SMALLEST_NORM), rtol=1e-13, atol=0)
    cotangent = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(scaled, weight, cotangent)
    torch.testing.assert_close(gradient, skew_filter(cotangent, 2) * (-1.4 / SMALLEST_NORM), rtol=1e-12, atol=1e-3)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_filter_that_is_not_finite_leaves_the_vectors_as_they_are(value: float) -> None:
    weight, vectors = filter_and_vectors()
    expected, following = scaled_skew_filter(weight, vectors, 1.4, 2)
    weight[3, 1, 0, 0] = value
    scaled, images = scaled_skew_filter(weight, vectors, 1.4, 2)
    assert not scaled[2:].isfinite().all()
    assert torch.equal(images[1], vectors[1])
    # The other group is not touched.
    assert torch.equal(scaled[:2], expected[:2])
    assert torch.equal(images[0], following[0])


def test_a_second_derivative_is_refused() -> None:
    weight, vectors = filter_and_vectors()
    weight.requires_grad_()
    scaled, _ = scaled_skew_filter(weight, vectors, 1.4, 2)
    (gradient,) = torch.autograd.grad(scaled.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_batched_gradients(kernel: tuple[int, int]) -> None:
    weight, vectors = filter_and_vectors(kernel)
    correct = torch.autograd.functional.jacobian(lambda w: plain(w, vectors, 1.4, 2)[0], weight)
    batched = torch.autograd.functional.jacobian(
        lambda w: scaled_skew_filter(w, vectors, 1.4, 2)[0], weight, vectorize=True
    )
    torch.testing.assert_close(batched, correct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_filters_and_gradients_in_another_layout(kernel: tuple[int, int]) -> None:
    weight, vectors = filter_and_vectors(kernel)
    cotangent, _ = filter_and_vectors(kernel, seed=1)
    expected = plain(weight.requires_grad_(), vectors, 1.4, 2)[0]
    (correct,) = torch.autograd.grad(expected, weight, cotangent)
    for layout in (
        lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
        lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
        lambda tensor: tensor.mT.contiguous().mT,
    ):
        scaled, _ = scaled_skew_filter(layout(weight), vectors, 1.4, 2)
        torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-12, check_stride=False)
        (gradient,) = torch.autograd.grad(scaled, weight, layout(cotangent))
        torch.testing.assert_close(gradient, correct, rtol=1e-12, atol=1e-12, check_stride=False)
