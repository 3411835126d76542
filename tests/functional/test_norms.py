"""Norm bounds against the singular values of dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import (
    PADDING_MODES,
    frequency_response,
    jacobian_norm,
    power_iteration,
    reshaped_filter_bound,
    reshaped_filters,
    reshaped_norm,
    skew_filter,
    spectral_norm_bound,
    start_vectors,
    symbol_bound,
    top_vectors,
)
from tests.oracles import convolution_matrix, fantastic_four, spectral_norm, symbol_supremum

KERNELS = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (3, 5)]
SIZES = [(3, 3), (5, 4), (8, 8)]


def random_filter(kernel: tuple[int, int], groups: int = 1, channels: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(channels, channels // groups, *kernel, generator=generator, dtype=torch.float64)
    return skew_filter(weight, groups)


def shift_filter(channels: int = 4) -> Tensor:
    """The skew part of a shift by one column, with response i sin(w): its peak at pi / 2 falls between grid points."""
    weight = torch.zeros(channels, channels, 3, 3, dtype=torch.float64)
    weight[:, :, 1, 2] = torch.eye(channels)
    return skew_filter(weight)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_bounds_hold_on_maps_of_several_sizes(kernel: tuple[int, int], groups: int, padding_mode: str) -> None:
    for seed in range(3):
        weight = random_filter(kernel, groups, seed=seed)
        largest = max(spectral_norm(convolution_matrix(weight, *size, groups, padding_mode)) for size in SIZES)
        reshaped, symbol = reshaped_filter_bound(weight, groups), symbol_bound(weight, groups)
        assert largest <= symbol
        assert largest <= reshaped
        # Bounds that hold because they are enormous would be of no use.
        assert reshaped <= 2.5 * largest
        assert symbol <= 2 * largest


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3, 1e30])
@pytest.mark.parametrize("kind", ["random", "rank one", "one tap", "decoupled"])
def test_bounds_hold_at_every_scale_and_for_degenerate_filters(kind: str, scale: float) -> None:
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "rank one":
        weight = weight[:, :1, :1, :1] * weight[:1, :, 1:2, 1:2] * torch.ones(3, 3, dtype=torch.float64)
    elif kind == "one tap":
        weight = torch.zeros_like(weight).index_put_(tuple(torch.tensor([i]) for i in (0, 3, 0, 1)), weight[0, 0, 0, 0])
    elif kind == "decoupled":
        weight[:2, 2:] = weight[2:, :2] = 0
        weight[2:, 2:] *= 1e-6
    weight = scale * skew_filter(weight)
    for padding_mode in PADDING_MODES:
        norm = spectral_norm(convolution_matrix(weight, 6, 5, padding_mode=padding_mode))
        assert norm <= reshaped_filter_bound(weight) < math.inf
        assert norm <= symbol_bound(weight) < math.inf


@pytest.mark.parametrize("seed", range(7))
def test_symbol_bound_is_within_five_percent_for_three_by_three_kernels(seed: int) -> None:
    weight = 10.0 ** (seed - 3) * random_filter((3, 3), groups=1 + seed % 2, seed=seed)
    supremum = symbol_supremum(weight, 1 + seed % 2)
    assert supremum <= symbol_bound(weight, 1 + seed % 2, grid=16) <= 1.05 * supremum


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("grid", [6, 9, 16])
def test_symbol_bound_covers_frequencies_between_the_grid_points(
    grid: int, groups: int, kernel: tuple[int, int]
) -> None:
    weight = random_filter(kernel, groups)
    assert symbol_supremum(weight, groups) <= symbol_bound(weight, groups, grid)


@pytest.mark.parametrize("grid", [3, 5, 6, 7, 9])
def test_symbol_bound_of_a_shift_whose_peak_falls_between_the_grid_points(grid: int) -> None:
    weight = shift_filter()
    assert symbol_supremum(weight) <= symbol_bound(weight, grid=grid)
    # Without the correction the grid alone would fall short of the norm, sup |sin| = 1.
    on_grid = max(abs(math.sin(2 * math.pi * k / grid)) for k in range(grid))
    assert on_grid < 1


@pytest.mark.parametrize(("kernel", "grid"), [((3, 3), 2), ((5, 5), 4), ((1, 7), 6), ((3, 1), 0)])
def test_symbol_bound_refuses_a_grid_that_is_too_coarse(kernel: tuple[int, int], grid: int) -> None:
    with pytest.raises(ValueError, match=rf"grid must exceed {max(kernel) - 1} for a kernel .*got {grid}"):
        symbol_bound(random_filter(kernel), grid=grid)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_reshaped_norm_is_the_smallest_of_the_fantastic_four(kernel: tuple[int, int], groups: int) -> None:
    weight = random_filter(kernel, groups, channels=6)
    expected = [min(map(spectral_norm, group)) for group in fantastic_four(weight, groups)]
    norm = reshaped_norm(weight, groups)
    assert norm.dtype == torch.float64
    np.testing.assert_allclose(norm.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_other_two_reshaped_filters_have_the_same_norms_if_skew(kernel: tuple[int, int], groups: int) -> None:
    for flat, down, right, transposed in fantastic_four(random_filter(kernel, groups, channels=6), groups):
        assert spectral_norm(transposed) == pytest.approx(spectral_norm(flat), rel=1e-12)
        assert spectral_norm(right) == pytest.approx(spectral_norm(down), rel=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_reshaped_filters_are_the_two_matrices_they_are_said_to_be(groups: int) -> None:
    weight = torch.randn(6, 6 // groups, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat, blocked = reshaped_filters(weight, groups)
    for group, (expected_flat, expected_blocked, _, _) in enumerate(fantastic_four(weight, groups)):
        np.testing.assert_array_equal(flat[group].numpy(), expected_flat)
        np.testing.assert_array_equal(blocked[group].numpy(), expected_blocked)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3, 1)])
def test_gradient_of_the_reshaped_norm_of_a_skew_filter(kernel: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 2, *kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: reshaped_norm(skew_filter(w, 2), 2), (weight,))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_filters_that_are_not_finite_have_infinite_bounds(value: float) -> None:
    weight = random_filter((3, 3))
    weight[1, 2, 0, 0] = value
    assert reshaped_filter_bound(weight) == math.inf
    assert symbol_bound(weight) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bounds_hold_for_filters_of_low_precision(dtype: torch.dtype) -> None:
    weight = random_filter((3, 3)).to(dtype)
    norm = spectral_norm(convolution_matrix(weight, 8, 8))
    assert norm <= symbol_bound(weight)
    assert norm <= reshaped_filter_bound(weight)


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


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_frequency_responses_are_the_circular_convolution(kernel: tuple[int, int], groups: int) -> None:
    weight = random_filter(kernel, groups)
    for size in ((2, 3), (5, 4)):
        x = np.random.default_rng(0).standard_normal((4, *size))
        matrix = convolution_matrix(weight, *size, groups, "circular")
        expected = np.fft.rfft2((matrix @ x.ravel()).reshape(x.shape))
        response = frequency_response(weight, size, groups).numpy()
        spectrum = np.fft.rfft2(x).reshape(groups, 4 // groups, size[0], -1)
        result = np.einsum("pqgoi,gipq->gopq", response, spectrum).reshape(expected.shape)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11)


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
    # Where there is nothing to go on with, the vectors stay as they are.
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


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 4)])
def test_the_bound_on_a_matrix_is_its_norm_rounded_up(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    matrix = scale * torch.randn(shape, dtype=torch.float64)
    norm = float(torch.linalg.svdvals(matrix)[0])
    assert norm <= spectral_norm_bound(matrix) <= norm * (1 + 1e-9)
    matrix[0, 0] = float("nan")
    assert spectral_norm_bound(matrix) == float("inf")
