"""Scaling a filter to a norm against the formula, differentiated by plain autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import SMALLEST_NORM, scaled_to_norm, skew_filter, top_vectors
from tests.oracles import convolution_matrix, spectral_norm, to_numpy

SETTINGS = [((3, 3), 1, 5), ((3, 3), 2, 4), ((1, 1), 2, 1), ((1, 1), 1, 3), ((1, 3), 1, 4), ((5, 3), 2, 5)]


def filter_and_vectors(kernel: tuple[int, int], groups: int, points: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    vectors = torch.randn(groups, 4 // groups, points, points, generator=generator, dtype=torch.float64)
    return skew_filter(weight, groups), vectors / vectors.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def plain(skew: Tensor, vectors: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """target / ||J v|| times each group's filter, and J v / ||J v||, by a convolution of periodic maps."""
    groups, channels, points, _ = vectors.shape
    rows, columns = skew.shape[-2] // 2, skew.shape[-1] // 2
    maps = vectors.reshape(1, groups * channels, points, points)
    images = F.conv2d(F.pad(maps, (columns, columns, rows, rows), mode="circular"), skew, groups=groups)
    images = images.view(groups, channels, points, points)
    norms = images.flatten(1).norm(dim=1)
    scale = (target / norms).repeat_interleave(channels).view(-1, 1, 1, 1)
    return scale * skew, (images / norms.view(-1, 1, 1, 1)).detach()


@pytest.mark.parametrize("target", [1.4, -0.3])
@pytest.mark.parametrize(("kernel", "groups", "points"), SETTINGS)
def test_value_and_gradient_of_the_formula(kernel: tuple[int, int], groups: int, points: int, target: float) -> None:
    skew, vectors = filter_and_vectors(kernel, groups, points)
    skew.requires_grad_()
    (scaled, images), (expected, expected_images) = (
        function(skew, vectors, target) for function in (scaled_to_norm, plain)
    )
    torch.testing.assert_close(scaled, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(images, expected_images, rtol=1e-12, atol=1e-12)
    assert not images.requires_grad
    cotangent = torch.randn(skew.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(scaled, skew, cotangent)
    (correct,) = torch.autograd.grad(expected, skew, cotangent)
    torch.testing.assert_close(gradient, correct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "groups", "points"), SETTINGS)
def test_gradcheck(kernel: tuple[int, int], groups: int, points: int) -> None:
    skew, vectors = filter_and_vectors(kernel, groups, points)
    assert torch.autograd.gradcheck(lambda w: scaled_to_norm(w, vectors, -1.4)[0], (skew.requires_grad_(),))


@pytest.mark.parametrize("groups", [1, 2])
def test_at_a_top_singular_vector_the_norm_is_the_target(groups: int) -> None:
    skew, _ = filter_and_vectors((3, 3), groups, 4)
    scaled, _ = scaled_to_norm(skew, top_vectors(skew, groups, 4, steps=60), 1.4)
    for each in scaled.chunk(groups):
        assert spectral_norm(convolution_matrix(each, 4, 4, padding_mode="circular")) == pytest.approx(1.4, rel=1e-6)


def test_steps_follow_the_filter_to_its_norm() -> None:
    skew, vectors = filter_and_vectors((3, 3), 2, 4)
    for _ in range(300):
        scaled, vectors = scaled_to_norm(skew, vectors, 1.4)
    norms = [spectral_norm(convolution_matrix(each, 4, 4, padding_mode="circular")) for each in scaled.chunk(2)]
    np.testing.assert_allclose(norms, 1.4, rtol=1e-3)


def test_groups_are_scaled_on_their_own() -> None:
    skew, vectors = filter_and_vectors((3, 3), 2, 4)
    together, _ = scaled_to_norm(skew, vectors, 1.4)
    for group in range(2):
        alone, _ = scaled_to_norm(skew[2 * group : 2 * group + 2], vectors[group : group + 1], 1.4)
        torch.testing.assert_close(alone, together[2 * group : 2 * group + 2], rtol=1e-14, atol=1e-14)


def test_a_zero_filter_stays_zero_and_its_vectors_too() -> None:
    _, vectors = filter_and_vectors((3, 3), 2, 4)
    skew = torch.zeros(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    scaled, images = scaled_to_norm(skew, vectors, 1.4)
    assert torch.equal(scaled, torch.zeros_like(skew))
    assert torch.equal(images, vectors)
    cotangent = torch.ones_like(skew)
    (gradient,) = torch.autograd.grad(scaled, skew, cotangent)
    # Below the smallest norm the scale is a constant.
    torch.testing.assert_close(gradient, cotangent * (1.4 / SMALLEST_NORM), rtol=1e-15, atol=0)


def test_below_the_smallest_norm_the_scale_is_constant() -> None:
    skew, vectors = filter_and_vectors((3, 3), 1, 4)
    skew = (skew * 1e-14).requires_grad_()
    scaled, _ = scaled_to_norm(skew, vectors, -1.4)
    torch.testing.assert_close(scaled, skew * (-1.4 / SMALLEST_NORM), rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(scaled.sum(), skew)
    torch.testing.assert_close(gradient, torch.full_like(skew, -1.4 / SMALLEST_NORM), rtol=1e-14, atol=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_filter_that_is_not_finite_leaves_the_vectors_as_they_are(value: float) -> None:
    skew, vectors = filter_and_vectors((3, 3), 2, 4)
    expected = scaled_to_norm(skew, vectors, 1.4)
    skew[3, 1, 0, 0] = value
    scaled, images = scaled_to_norm(skew, vectors, 1.4)
    assert not scaled[2:].isfinite().all()
    assert torch.equal(images[1], vectors[1])
    # The other group is not touched.
    assert torch.equal(scaled[:2], expected[0][:2])
    assert torch.equal(images[0], expected[1][0])


def test_a_second_derivative_is_refused() -> None:
    skew, vectors = filter_and_vectors((3, 3), 1, 4)
    skew.requires_grad_()
    (gradient,) = torch.autograd.grad(scaled_to_norm(skew, vectors, 1.4)[0].square().sum(), skew, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_function_transforms() -> None:
    skew, vectors = filter_and_vectors((3, 3), 2, 4)
    filters = torch.stack([skew, -2 * skew.flip(1)])
    mapped = torch.func.vmap(lambda w: scaled_to_norm(w, vectors, 1.4)[0])(filters)
    torch.testing.assert_close(mapped, torch.stack([scaled_to_norm(w, vectors, 1.4)[0] for w in filters]))
    jacobian = torch.func.jacrev(lambda w: scaled_to_norm(w, vectors, 1.4)[0])(skew)
    expected = torch.autograd.functional.jacobian(lambda w: plain(w, vectors, 1.4)[0], skew)
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-12)


def test_a_filter_in_another_layout() -> None:
    skew, vectors = filter_and_vectors((3, 3), 2, 4)
    scaled, _ = scaled_to_norm(skew.contiguous(memory_format=torch.channels_last), vectors, 1.4)
    np.testing.assert_array_equal(to_numpy(scaled), to_numpy(scaled_to_norm(skew, vectors, 1.4)[0]))
