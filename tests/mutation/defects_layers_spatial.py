"""Defects of AOL, SLL, CPL, BCOP, AOC, CHORD and the sandwich layer."""

from __future__ import annotations

from torch import Tensor

import lipnet.functional.kernel_norms
import lipnet.layers.cpl
from lipnet.functional.autocorrelation import absolute_gram, dominance_bound, orthogonality_bound
from lipnet.functional.block_convolution import orthogonal_kernel, with_stride
from lipnet.functional.frequency import room_beyond_grid
from lipnet.functional.norm_bounds import gram_norm_bound
from lipnet.functional.orthogonal_matrices import polar_factor
from lipnet.layers.aol import rescaled_columns
from lipnet.layers.cholesky import orthonormal_rows
from lipnet.layers.cpl import CPL
from lipnet.layers.potential import GradientStep
from lipnet.layers.sandwich import Sandwich
from lipnet.layers.sll import SLL
from tests.mutation.planting import Defect, attribute, edit, edit_method

GRAM, KERNEL_NORMS = "tests/functional/test_autocorrelation.py::", "tests/functional/test_kernel_norms.py::"
COMMON = "tests/layers/test_spatial_common.py::"
AOL_TESTS, AOC_TESTS = "tests/layers/test_aol.py::", "tests/layers/test_aoc.py::"
BCOP_TESTS, POTENTIAL = "tests/layers/test_bcop.py::", "tests/layers/test_potential.py::"
LINEAR = "tests/layers/test_orthogonal_linear.py::"


def _estimate(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """The norm of the reshaped filter without the factor of its taps."""
    return float(weight.double().flatten(1).norm())


DEFECTS = [
    Defect(
        "autocorrelation: half of the offsets is left out",
        edit(absolute_gram, "taps[0] + half + half.mT", "taps[0] + half"),
        [GRAM + "test_the_absolute_gram_sums_the_dense_one", AOL_TESTS + "test_jacobian_is_the_rescaled_matrix"],
    ),
    Defect(
        "AOL: row sums without absolute values",
        edit(absolute_gram, "autocorrelation(weight, groups).abs()", "autocorrelation(weight, groups)"),
        [GRAM + "test_the_absolute_gram_sums_the_dense_one", AOL_TESTS + "test_linear_is_the_rescaled_matrix"],
    ),
    Defect(
        "AOL: the scales are divided by twice",
        edit(rescaled_columns, "(grouped * scales", "(grouped / scales"),
        [AOL_TESTS + "test_jacobian_is_the_rescaled_matrix"],
    ),
    Defect(
        "AOL: the bound lacks the square root",
        edit(dominance_bound, "sqrt(_spectral_radius_bound", "(_spectral_radius_bound"),
        [GRAM + "test_the_dominance_bound_is_the_spectral_radius_of_the_absolute_gram"],
    ),
    Defect(
        "orthogonality: the bound is a blind 1",
        edit(orthogonality_bound, "sqrt(1 + residual + rounding)", "sqrt(1 + rounding)"),
        [GRAM + "test_the_orthogonality_bound_counts_every_offset", GRAM + "test_bounds_are_not_below_the_norm"],
    ),
    Defect(
        "orthogonality: offsets other than 0 count once",
        edit(orthogonality_bound, "2 * sqrt(len(taps) - 1)", "0 * sqrt(len(taps) - 1)"),
        [GRAM + "test_the_orthogonality_bound_counts_every_offset"],
    ),
    Defect(
        "polar factor: too few steps",
        edit(polar_factor, "range(steps)", "range(steps // 4)"),
        [GRAM + "test_the_polar_factor_is_the_nearest_orthogonal_matrix"],
    ),
    Defect(
        "BCOP: a factor without its second projector",
        edit(orthogonal_kernel, "outside = kernel - inside", "outside = kernel"),
        [
            GRAM + "test_a_kernel_of_orthogonal_factors_is_orthogonal",
            BCOP_TESTS + "test_the_kernel_is_the_product_of_its_factors",
        ],
    ),
    Defect(
        "BCOP: shifts in one direction only",
        edit(orthogonal_kernel, "if step % 2 == 0 else", "if True else"),
        [BCOP_TESTS + "test_the_kernel_is_the_product_of_its_factors"],
    ),
    Defect(
        "AOC: the taps of the reduction are not shifted",
        edit(with_stride, "(b, t - 1 - b, a, s - 1 - a)", "(0, t - 1, 0, s - 1)"),
        [
            GRAM + "test_with_stride_is_one_convolution_after_another",
            AOC_TESTS + "test_it_is_a_block_convolution_and_a_reduction",
        ],
    ),
    Defect(
        "AOC: the bound exchanges the pixels of a stride",
        edit(lipnet.functional.kernel_norms.strided_kernel, "permute(0, 1, 3, 5, 2, 4)", "permute(0, 1, 5, 3, 2, 4)"),
        [GRAM + "test_without_stride_is_the_same_map_after_space_to_depth"],
    ),
    Defect(
        "norm bound: no room between the frequencies of the grid",
        edit(room_beyond_grid, "cos(pi * (taps - 1) / 2 / points)", "1.0"),
        [KERNEL_NORMS + "test_the_bound_adds_the_room_between_the_frequencies"],
    ),
    Defect(
        "norm bound: Cholesky decompositions that fail are ignored",
        edit(lipnet.functional.kernel_norms._raised, "info.any()", "info.all()"),
        [KERNEL_NORMS + "test_the_bound_is_sharp_on_a_decoupled_block"],
    ),
    Defect(
        "norm bound: of the Gram matrix, without the square root",
        edit(gram_norm_bound, "sqrt(max(largest, 0.0) * (1 + rounding))", "(max(largest, 0.0) * (1 + rounding))"),
        [GRAM + "test_the_gram_norm_bound_is_the_norm"],
    ),
    Defect(
        "CPL: the norm is a stale one",
        edit_method(CPL, "scales", "norm_estimates(weight.detach(), self.groups)", "self.vector.norm()"),
        [POTENTIAL + "test_cpl_is_its_formula", POTENTIAL + "test_evaluation_does_not_depend_on_the_vector"],
    ),
    Defect(
        "CPL: the norm is estimated from a single vector",
        attribute(lipnet.layers.cpl, "_VECTORS", 1),
        [POTENTIAL + "test_new_layers_have_bound_one_in_evaluation"],
    ),
    Defect(
        "CPL: the bound is that of an estimate",
        attribute(lipnet.layers.cpl, "kernel_norm_bound", _estimate),
        [COMMON + "test_the_bound_covers_hostile_weights"],
    ),
    Defect(
        "residual layers: steps that are too long are not noticed",
        edit_method(GradientStep, "bound_operands", "max(1.0, up(norm * norm - 1))", "1.0"),
        [
            POTENTIAL + "test_a_step_that_is_too_long_has_a_bound_above_one",
            POTENTIAL + "test_the_bound_in_training_covers_a_vector_of_other_weights",
        ],
    ),
    Defect(
        "residual layers: the kernels need not be transposes",
        edit_method(GradientStep, "_whole_kernel", "raise ValueError", "ValueError"),
        [POTENTIAL + "test_both_kernels_are_checked_to_be_transposes"],
    ),
    Defect(
        "residual layers: the rounding of the second convolution is left out",
        edit_method(GradientStep, "round_operands", "norm * first.error + second.error + difference", "0 * norm"),
        [COMMON + "test_the_rounding_bound_covers_the_error"],
    ),
    Defect(
        "SLL: the weights q are left out on one side",
        edit_method(SLL, "scales", "@ q / q", "@ q"),
        [POTENTIAL + "test_sll_is_its_formula"],
    ),
    Defect(
        "SLL: T lacks its factor 2",
        edit_method(SLL, "scales", "/ 2).rsqrt()", "/ 4).rsqrt()"),
        [POTENTIAL + "test_sll_is_its_formula", COMMON + "test_the_bound_in_float32_is_tight"],
    ),
    Defect(
        "CHORD: the factor of another matrix",
        edit(orthonormal_rows, "factor, scaled, upper=False", "factor.mT.contiguous().mT, 2 * scaled, upper=False"),
        [LINEAR + "test_cholesky_is_its_formula", COMMON + "test_the_bound_in_float32_is_tight"],
    ),
    Defect(
        "CHORD: damping in proportion to nothing",
        edit(orthonormal_rows, "_DAMPING * gram.norm()", "0.1"),
        [LINEAR + "test_cholesky_is_its_formula"],
    ),
    Defect(
        "sandwich: the bound is that of one matrix alone",
        edit_method(Sandwich, "bound_operands", "torch.cat((operands[0], operands[1]), dim=1)", "operands[0]"),
        [LINEAR + "test_sandwich_reaches_its_bound"],
    ),
]
