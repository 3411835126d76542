"""Norms of convolutions: the bound against dense matrices and fine grids, the estimate from below."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipnet.functional import space_to_depth
from lipnet.functional.kernel_norms import kernel_norm_bound, kernel_norm_estimate, strided_kernel
from tests.oracles import dense_jacobian, spectral_norm, symbol_supremum


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KERNELS = [((4, 3, 3, 3), 1), ((2, 5, 1, 1), 1), ((6, 2, 3, 1), 3), ((3, 4, 2, 4), 1), ((4, 2, 5, 5), 2)]
# Also: a kernel with a middle between pixels in one direction alone, many rows, many columns.
MORE_KERNELS = [*KERNELS, ((3, 2, 4, 3), 1), ((9, 2, 3, 3), 1), ((2, 9, 1, 2), 1)]


@pytest.mark.cover(1)
@pytest.mark.parametrize(("shape", "groups"), MORE_KERNELS)
@pytest.mark.parametrize("scale", [1e-305, 1e-200, 1e-3, 1.0, 1e3, 1e200, 1e305])
@pytest.mark.parametrize("grid", [16, 32])
def test_the_bound_for_maps_of_any_size_is_just_above_the_supremum(
    shape: tuple[int, ...], groups: int, scale: float, grid: int
) -> None:
    weight = noise(*shape)
    supremum = symbol_supremum(weight, groups)
    bound = kernel_norm_bound(weight * scale, groups, grid=grid) / scale
    assert supremum * (1 - 1e-3) <= bound
    points = max(grid, 4 * max(shape[2:]))
    looseness = math.prod(1 / math.cos(math.pi * (taps - 1) / 2 / points) for taps in shape[2:])
    assert bound <= supremum * looseness * 1.002


@pytest.mark.parametrize("seed", [40, 43, 58])
def test_the_search_hardly_overshoots(seed: int) -> None:
    # Steps that doubled without another estimate overshot by 1.3 to 2.7 % for these kernels.
    weight = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(seed))
    looseness = 1 / math.cos(math.pi / 32) ** 2
    assert kernel_norm_bound(weight) <= symbol_supremum(weight) * looseness * 1.001


def test_the_bound_adds_the_room_between_the_frequencies() -> None:
    bounds = [kernel_norm_bound(torch.ones(1, 1, 3, 3), grid=grid) for grid in (16, 32)]
    assert bounds == pytest.approx([9 / math.cos(math.pi / grid) ** 2 for grid in (16, 32)], rel=1e-3)


def test_the_bound_is_sharp_on_a_decoupled_block() -> None:
    weight = noise(4, 4, 3, 3)
    weight[2:, 2:] *= 1e4
    weight[:2, 2:] = weight[2:, :2] = 0
    assert symbol_supremum(weight) <= kernel_norm_bound(weight) <= 1.02 * symbol_supremum(weight)


@pytest.mark.parametrize(("shape", "groups"), KERNELS)
@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
def test_the_bound_at_the_frequencies_of_circular_maps_is_exact(
    shape: tuple[int, ...], groups: int, size: tuple[int, int]
) -> None:
    weight = noise(*shape)
    before = [taps // 2 for taps in shape[2:]]
    after = [taps - 1 - left for taps, left in zip(shape[2:], before, strict=True)]

    def circular(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, (before[1], after[1], before[0], after[0]), "circular"), weight, groups=groups)

    norm = spectral_norm(dense_jacobian(circular, noise(1, shape[1] * groups, *size)))
    bound = kernel_norm_bound(weight, groups, size)
    assert norm <= bound <= norm * 1.001


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (1, 2)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), (1, 1)), ((5, 5), (2, 2)), ((4, 4), (0, 0)), ((2, 3), (1, 0))]
)
def test_the_bound_covers_zero_padding_at_a_size_and_its_stride(
    stride: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int]
) -> None:
    weight = noise(3, 2, *kernel)
    norm = spectral_norm(dense_jacobian(lambda x: F.conv2d(x, weight, None, stride, padding), noise(1, 2, 8, 8)))
    strided, reach = strided_kernel(weight, stride, padding)
    points = [8 // step + beyond for step, beyond in zip(stride, reach, strict=True)]
    assert norm <= kernel_norm_bound(strided, points=points)
    assert norm <= kernel_norm_bound(strided)


def test_patches_without_overlap_have_the_norm_of_their_matrix() -> None:
    weight = noise(5, 2, 4, 4)
    strided, reach = strided_kernel(weight, (4, 4), (0, 0))
    assert (strided.shape, reach) == ((5, 32, 1, 1), (0, 0))
    assert kernel_norm_bound(strided) == pytest.approx(np.linalg.norm(weight.flatten(1), 2), rel=1e-3)


def test_a_strided_kernel_reads_space_to_depth_maps() -> None:
    weight, x = noise(3, 2, 5, 3), noise(1, 2, 8, 8)
    strided, _ = strided_kernel(weight, (2, 2), (2, 1))
    maps = F.conv2d(F.pad(space_to_depth(x, (2, 2)), (1, 0, 1, 1)), strided)
    torch.testing.assert_close(maps, F.conv2d(x, weight, stride=2, padding=(2, 1)))


def test_kernels_that_are_zero_or_not_finite() -> None:
    assert kernel_norm_bound(torch.zeros(2, 2, 3, 3)) == 0.0
    assert kernel_norm_bound(torch.full((2, 2, 3, 3), math.nan)) == math.inf
    assert kernel_norm_bound(torch.full((2, 2, 3, 3), math.inf)) == math.inf


@pytest.mark.parametrize("start", [0.5, 1.0, 3.0])
def test_a_start_never_lowers_the_bound(start: float) -> None:
    weight = noise(3, 3, 3, 3)
    norm = symbol_supremum(weight)
    assert kernel_norm_bound(weight / norm * 2, start=start) >= max(2 * (1 - 1e-3), start)


def test_rank_one_kernels() -> None:
    weight = noise(6, 1, 1, 1) * noise(1, 6, 3, 3)
    assert symbol_supremum(weight) <= kernel_norm_bound(weight) * (1 + 1e-6)


def test_too_few_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points must be at least as many as taps \(3, 3\), got \(2, 4\)"):
        kernel_norm_bound(noise(2, 2, 3, 3), points=(2, 4))


@pytest.mark.parametrize(("shape", "groups"), KERNELS)
def test_the_estimate_converges_from_below(shape: tuple[int, ...], groups: int) -> None:
    weight = noise(*shape)
    start = torch.zeros(1, shape[1] * groups, 8, 8, dtype=torch.float64)
    bound = kernel_norm_bound(weight, groups, (8, 8))
    estimates = [float(kernel_norm_estimate(weight, start, groups, steps)[0]) for steps in (1, 200)]
    assert estimates[0] <= estimates[1] * (1 + 1e-9)
    assert bound * 0.99 <= estimates[1] <= bound


def test_the_gradient_of_the_estimate_holds_the_vector() -> None:
    weight = noise(3, 3, 3, 3).requires_grad_()
    _, vector = kernel_norm_estimate(weight, torch.zeros(1, 3, 5, 5, dtype=torch.float64), steps=30)
    assert torch.autograd.gradcheck(lambda w: kernel_norm_estimate(w, vector, steps=0)[0], (weight,))


def test_a_peak_between_the_frequencies_of_the_grid_is_covered() -> None:
    # The taps are a wave whose frequency lies in the middle between two of 32: the response peaks there.
    taps = torch.arange(5, dtype=torch.float64)
    wave = torch.stack([(taps * math.pi / 32 * 9).cos(), (taps * math.pi / 32 * 9).sin()])
    # An output for the cosine and one for the sine: the norm is that of the complex wave at its best frequency.
    weight = wave.view(2, 1, 1, 5)
    frequencies = np.linspace(0, 2 * np.pi, 20001)
    responses = np.exp(1j * np.outer(frequencies, taps.numpy())) @ wave.numpy().T
    supremum = np.linalg.norm(responses, axis=1).max()
    on_the_grid = np.linalg.norm(
        np.exp(2j * np.pi * np.outer(np.arange(32) / 32, taps.numpy())) @ wave.numpy().T, axis=1
    )
    assert on_the_grid.max() < supremum * (1 - 1e-3), "the test needs a peak off the grid"
    assert supremum <= kernel_norm_bound(weight)
