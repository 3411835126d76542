"""Norm estimates for training: below the norm, close to it, and bounded below for every start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import skew_filter
from lipnet.functional.norm_estimates import jacobian_norm, power_iteration, start_vectors, top_vectors
from tests.oracles import convolution_matrix, spectral_norm


def random_filter(kernel: tuple[int, int], groups: int = 1, channels: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, channels // groups, *kernel, generator=generator, dtype=torch.float64)
    return skew_filter(weight, groups)


def random_matrices() -> Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def random_vectors() -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_power_iteration_converges_from_below() -> None:
    matrices, vectors = random_matrices(), random_vectors()
    exact = torch.linalg.matrix_norm(matrices, 2)
    previous = torch.zeros(3, dtype=torch.float64)
    for _ in range(300):
        estimate, vectors = power_iteration(matrices, vectors)
        assert (estimate <= exact * (1 + 1e-12)).all()
        assert (estimate >= previous * (1 - 1e-12)).all()
        previous = estimate
    np.testing.assert_allclose(estimate.numpy(), exact.numpy(), rtol=1e-9)
    np.testing.assert_allclose(vectors.norm(dim=-1).numpy(), 1, rtol=1e-12)


def test_several_steps_are_several_calls() -> None:
    matrices, vectors = random_matrices(), random_vectors()
    estimate, together = power_iteration(matrices, vectors, steps=3)
    for _ in range(3):
        single, vectors = power_iteration(matrices, vectors)
    assert torch.equal(together, vectors)
    assert torch.equal(estimate, single)


@pytest.mark.parametrize("start", ["zero", "orthogonal", "infinite", "nan"])
def test_an_estimate_is_at_least_the_floor_whatever_the_start(start: str) -> None:
    matrices = random_matrices()
    matrices[:, :, 4:] = 0
    vectors = torch.zeros(3, 8, dtype=torch.float64)
    if start == "orthogonal":
        vectors[:, 4:] = 1
    elif start != "zero":
        vectors[:] = math.inf if start == "infinite" else math.nan
    floor = torch.linalg.matrix_norm(matrices) / math.sqrt(5)
    for _ in range(3):
        estimate, vectors = power_iteration(matrices, vectors)
        assert (estimate >= floor * (1 - 1e-15)).all()
        assert (estimate <= torch.linalg.matrix_norm(matrices, 2) * (1 + 1e-12)).all()


def test_the_floor_is_the_norm_of_an_orthogonal_matrix() -> None:
    orthogonal = torch.linalg.qr(random_matrices()[:, :, :5]).Q
    estimate, _ = power_iteration(orthogonal, torch.zeros(3, 5, dtype=torch.float64))
    np.testing.assert_allclose(estimate.numpy(), 1, rtol=1e-12)


def test_a_zero_matrix_has_estimate_zero() -> None:
    estimate, vectors = power_iteration(torch.zeros(1, 3, 4), torch.ones(1, 4))
    assert estimate.tolist() == [0.0]
    assert vectors.isfinite().all()


def test_gradient_of_a_converged_estimate_is_that_of_the_norm() -> None:
    matrices = random_matrices().requires_grad_()
    _, vectors = power_iteration(matrices, random_vectors(), steps=500)
    estimate, _ = power_iteration(matrices, vectors)
    (gradient,) = torch.autograd.grad(estimate.sum(), matrices)
    u, _, v = np.linalg.svd(matrices.detach().numpy())
    expected = u[:, :, :1] @ v[:, :1, :]
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-6)


def circular_norms(weight: Tensor, groups: int, points: int) -> list[float]:
    parts = weight.chunk(groups)
    return [spectral_norm(convolution_matrix(each, points, points, padding_mode="circular")) for each in parts]


@pytest.mark.parametrize(
    ("kernel", "groups", "points"), [((3, 3), 1, 5), ((3, 3), 2, 4), ((1, 1), 2, 1), ((3, 5), 1, 5)]
)
def test_top_vectors_attain_the_norm(kernel: tuple[int, int], groups: int, points: int) -> None:
    for scale in (1e-3, 1.0, 1e3):
        weight = scale * random_filter(kernel, groups)
        vectors = top_vectors(weight, groups, points)
        assert vectors.shape == (groups, 4 // groups, points, points)
        np.testing.assert_allclose(vectors.flatten(1).norm(dim=1).numpy(), 1, rtol=1e-6)
        norms, images = jacobian_norm(weight, vectors)
        exact = np.array(circular_norms(weight, groups, points))
        assert (norms.numpy() <= exact * (1 + 1e-6)).all()
        assert (norms.numpy() >= exact * 0.99).all()
        np.testing.assert_allclose(images.flatten(1).norm(dim=1).numpy(), 1, rtol=1e-12)
        assert torch.equal(top_vectors(weight, groups, points), vectors)


def test_top_vectors_of_decoupled_blocks_see_the_larger_one() -> None:
    weight = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    weight[:2, :2] = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[2:, 2:] = 1e-6 * weight[:2, :2]
    for channels in ([0, 1, 2, 3], [2, 3, 0, 1]):
        skew = skew_filter(weight)[channels][:, channels]
        norm, _ = jacobian_norm(skew, top_vectors(skew, 1, 4))
        assert float(norm) == pytest.approx(circular_norms(skew, 1, 4)[0], rel=0.01)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_top_vectors_of_filters_without_any_are_finite_and_of_norm_one(value: float) -> None:
    weight = torch.full((4, 2, 3, 3), value, dtype=torch.float64)
    vectors = top_vectors(weight, 2, 4)
    np.testing.assert_allclose(vectors.flatten(1).norm(dim=1).numpy(), 1, rtol=1e-12)
    _, images = jacobian_norm(weight, vectors)
    # Vectors whose images are zero or not finite stay unchanged.
    assert torch.equal(images, vectors)


@pytest.mark.parametrize(("kernel", "points"), [((3, 3), 4), ((1, 1), 1), ((1, 5), 5)])
def test_the_norm_of_the_image_and_its_gradient(kernel: tuple[int, int], points: int) -> None:
    weight = random_filter(kernel, 2).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(2, 2, points, points, generator=generator, dtype=torch.float64)
    norms, images = jacobian_norm(weight, vectors)
    for norm, image, vector, part in zip(norms, images, vectors, weight.chunk(2), strict=True):
        expected = convolution_matrix(part, points, points, padding_mode="circular") @ vector.flatten().numpy()
        assert norm.item() == pytest.approx(np.linalg.norm(expected), rel=1e-12)
        np.testing.assert_allclose(image.flatten().numpy(), expected / np.linalg.norm(expected), atol=1e-12)
    assert not images.requires_grad
    assert torch.autograd.gradcheck(lambda w: jacobian_norm(w, vectors)[0], (weight,))


def test_repeated_steps_converge_in_norm_from_below() -> None:
    weight = random_filter((3, 3))
    vectors, exact, previous = start_vectors(1, 4, 4, weight), circular_norms(weight, 1, 4)[0], 0.0
    for _ in range(400):
        norm, vectors = jacobian_norm(weight, vectors)
        assert previous * (1 - 1e-12) <= float(norm) <= exact * (1 + 1e-12)
        previous = float(norm)
    assert previous == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_vectors(dtype: torch.dtype) -> None:
    vectors = start_vectors(3, 2, 4, torch.zeros(1, dtype=dtype))
    assert vectors.shape == (3, 2, 4, 4)
    assert vectors.dtype is dtype
    np.testing.assert_allclose(vectors.flatten(1).norm(dim=1).numpy(), 1, rtol=1e-6)
    # Every frequency and every channel has its share, so that hardly any filter maps them to zero.
    spectrum = torch.fft.fft2(vectors.double()).abs()
    assert float(spectrum.min()) > 0.01
