"""Norm bounds against the singular values of dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import PADDING_MODES, eigenvalue_bounds, skew_filter
from lipnet.functional.kernel_norms import kernel_norm_bound
from lipnet.functional.norm_bounds import (
    gram_norm_bound,
    reshaped_filter_bound,
    reshaped_filters,
    spectral_norm_bound,
    symbol_bound,
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


@pytest.mark.cover(1)
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


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_filters_that_are_not_finite_have_infinite_bounds(value: float) -> None:
    weight = random_filter((3, 3))
    weight[1, 2, 0, 0] = value
    assert reshaped_filter_bound(weight) == math.inf
    assert symbol_bound(weight) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_bounds_hold_where_the_estimate_is_too_low(kernel: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_filter(kernel, groups=2, channels=8)
    bounds = symbol_bound(weight, 2), reshaped_filter_bound(weight, 2)
    estimate = eigenvalue_bounds._estimate
    monkeypatch.setattr(eigenvalue_bounds, "_estimate", lambda matrices: 0.7 * estimate(matrices))
    again = symbol_bound(weight, 2), reshaped_filter_bound(weight, 2)
    np.testing.assert_allclose(again, bounds, rtol=2e-3)
    assert symbol_supremum(weight, 2) <= again[0]
    largest = spectral_norm(convolution_matrix(weight, 8, 8, 2))
    assert largest <= again[1]


@pytest.mark.parametrize("size", [2, 16, 64])
def test_single_precision_proves_no_bound_below_the_norm(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    parts = torch.rand(40, size, size, 2, generator=generator, dtype=torch.float64) * 2 - 1
    matrices = torch.view_as_complex(parts)
    hermitian = (matrices + matrices.mH) / 2
    low = hermitian.to(torch.complex64)
    for each, rounded in zip(hermitian, low, strict=True):
        norm = float(np.abs(np.linalg.eigvalsh(each.numpy())).max())
        for dtype_matrix, below in ((rounded, 1e-8), (rounded, 0.0), (each, 1e-16)):
            assert not bool(eigenvalue_bounds._decomposes(dtype_matrix[None], norm * (1 - below), (1, -1)))
        # Bounds that are never proven would be of no use.
        assert bool(eigenvalue_bounds._decomposes(rounded[None], norm * 1.002, (1, -1)))
        assert bool(eigenvalue_bounds._decomposes(each[None], norm * (1 + 1e-9), (1, -1)))


def test_an_estimate_spares_the_reshaped_bound_where_another_one_is_smaller() -> None:
    weight = random_filter((3, 3), channels=8)
    bound = reshaped_filter_bound(weight)
    assert reshaped_filter_bound(weight, at_most=bound / 2) == bound / 2
    assert reshaped_filter_bound(weight, at_most=bound * 2) == bound


def test_the_reshaped_bound_covers_products_that_underflow() -> None:
    """One product of the Gram matrix rounds to the smallest number, all others to 0."""
    weight = torch.zeros(101, 101, 1, 1, dtype=torch.float64)
    weight[0, 1:] = 1.55e-162
    weight[0, 1] = 1.65e-162
    weight = weight - weight.transpose(0, 1)
    assert 1.55e-162 * math.sqrt(100) <= reshaped_filter_bound(weight) < 1e-150


MATRIX_BOUNDS: dict[str, Callable[[Tensor], float]] = {
    "singular values": spectral_norm_bound,
    "Gram matrix": gram_norm_bound,
    "frequencies": lambda matrix: kernel_norm_bound(matrix[..., None, None]),
    "frequencies of maps": lambda matrix: kernel_norm_bound(matrix[..., None, None], points=(2, 2)),
}


@pytest.mark.parametrize("name", MATRIX_BOUNDS)
@pytest.mark.parametrize("shape", [(2, 1), (3, 4), (7, 6)])
def test_bounds_below_the_normal_range_are_not_below_the_norm(name: str, shape: tuple[int, int]) -> None:
    """The norm of equal entries is sqrt(m n) of them, which rounds down to a multiple of the smallest number."""
    entry = 2.0**-1074
    bound = MATRIX_BOUNDS[name](torch.full(shape, entry, dtype=torch.float64))
    assert Fraction(bound) ** 2 >= math.prod(shape) * Fraction(entry) ** 2
    assert bound <= 100 * entry


def test_the_symbol_bound_below_the_normal_range_is_not_below_the_norm() -> None:
    entry = 2.0**-1074
    weight = torch.tensor([[0, 1, 1], [-1, 0, 0], [-1, 0, 0]], dtype=torch.float64)[..., None, None] * entry
    assert Fraction(symbol_bound(weight)) ** 2 >= 2 * Fraction(entry) ** 2


@pytest.mark.parametrize("name", MATRIX_BOUNDS)
def test_the_bound_of_zeros_is_zero(name: str) -> None:
    assert MATRIX_BOUNDS[name](torch.zeros(3, 4, dtype=torch.float64)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bounds_hold_for_filters_of_low_precision(dtype: torch.dtype) -> None:
    weight = random_filter((3, 3)).to(dtype)
    norm = spectral_norm(convolution_matrix(weight, 8, 8))
    assert norm <= symbol_bound(weight)
    assert norm <= reshaped_filter_bound(weight)


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 4)])
def test_the_bound_on_a_matrix_is_its_norm_rounded_up(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    matrix = scale * torch.randn(shape, dtype=torch.float64)
    norm = float(torch.linalg.svdvals(matrix)[0])
    assert norm <= spectral_norm_bound(matrix) <= norm * (1 + 1e-9)
    matrix[0, 0] = float("nan")
    assert spectral_norm_bound(matrix) == float("inf")


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_zero_matrices_have_a_bound_near_zero(dtype: torch.dtype) -> None:
    assert 0 < eigenvalue_bounds.eigenvalue_bound(torch.zeros(2, 3, 3, dtype=dtype)) < 1e-11
