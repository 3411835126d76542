"""Defects of the Lipschitz bound K: norms of filters and matrices, and their product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

import lipnet.certify.torch_rules
import lipnet.functional.frequency
import lipnet.functional.norm_estimates
import lipnet.layers.engines.prepared
from lipnet.certify.rules import children_in_order
from lipnet.functional import product_up, reshaped_filter_bound, spectral_norm_bound, symbol_bound
from lipnet.functional.contractions import orthogonal_norm_bound
from lipnet.functional.eigenvalue_bounds import _decomposes
from lipnet.functional.kernel_norms import kernel_norm_bound
from lipnet.layers import Normalize, ScaledConv2d, SpatialMixing
from lipnet.layers.cache import WeightCache
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace

BOUND = "tests/certify/test_rules.py::"
NORMS = "tests/functional/test_norm_bounds.py::"
GUARANTEE = "tests/layers/test_soc_guarantee.py::"
# The smallest and the largest of CIFAR-100's standard deviations.
_STDS = (0.2565, 0.2762)


def _bound_without_identity(self: ScaledConv2d, operands: tuple[Tensor, ...]) -> float:
    """Bound the kernel without its middle tap, in which the residual connection lies."""
    kernel = operands[0].clone()
    kernel[..., kernel.shape[-2] // 2, kernel.shape[-1] // 2] = 0
    return kernel_norm_bound(kernel, self.groups)


def _estimate(weight: Tensor, groups: int = 1, grid: int = 16) -> float:
    """The norm by three steps of power iteration."""
    vectors = lipnet.functional.norm_estimates.start_vectors(
        groups, weight.shape[1], max(8, *weight.shape[-2:]), weight
    )
    for _ in range(3):
        norms, vectors = lipnet.functional.norm_estimates.jacobian_norm(weight, vectors)
    return float(norms.max())


def _stale(self: WeightCache[Any], weights: Sequence[Tensor], compute: Callable[[], Any], **_: Any) -> Any:
    if self._kept is None:
        with torch.no_grad():
            self._kept = [weight.detach().clone() for weight in weights], compute()
    return self._kept[1]


def _without_the_last(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    children = children_in_order(module)
    return children[:-1] if children is not None and len(children) > 1 else children


def _each_module_once(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    return None if children_in_order(module) is None else list(module.named_children())


DEFECTS = [
    Defect(
        "std: the factor 1 / std is missing",
        attribute(Normalize, "lipschitz_bound", lambda self: 1.0),
        [
            "tests/layers/test_normalize.py::test_the_bound_is_the_reciprocal_of_the_std_that_is_used",
            "tests/certify/test_known_answers.py::test_normalised_rows_behind_an_isometry",
        ],
    ),
    Defect(
        "std: 1 / max(std) instead of 1 / min(std), with CIFAR-100's stds",
        attribute(Normalize, "lipschitz_bound", lambda self: min(_STDS) / max(_STDS) / self.std),
        ["tests/certify/test_known_answers.py::test_two_opposite_rows_behind_an_isometry"],
    ),
    Defect(
        "bounds: norms below the normal range are rounded to nearest",
        edit(spectral_norm_bound, "* _ROUNDING + BELOW_NORMAL", "* _ROUNDING"),
        [
            "tests/functional/test_norm_bounds.py::"
            "test_bounds_below_the_normal_range_are_not_below_the_norm[shape0-singular values]"
        ],
    ),
    Defect(
        "norm: the cached norm survives a loaded checkpoint",
        attribute(WeightCache, "get", _stale),
        [
            "tests/layers/test_cache.py::test_other_values_are_computed_anew",
            "tests/layers/test_soc_state.py::test_the_bound_is_not_stale_either",
        ],
    ),
    Defect(
        "norm: three steps of power iteration count as a bound",
        replace(symbol_bound, _estimate),
        [
            NORMS + "test_bounds_hold_on_maps_of_several_sizes",
            GUARANTEE + "test_the_bound_of_every_number_of_terms_holds_and_is_not_vacuous",
        ],
    ),
    Defect(
        "norm: the target of the scaling counts as a bound",
        attribute(lipnet.layers.engines.prepared, "norm_bound", lambda weight: 1.0),
        [GUARANTEE + "test_the_bound_of_every_number_of_terms_holds_and_is_not_vacuous"],
    ),
    Defect(
        "norm: frequencies between the grid points are ignored",
        attribute(lipnet.functional.frequency, "cos", lambda angle: 1.0),
        [
            NORMS + "test_symbol_bound_of_a_shift_whose_peak_falls_between_the_grid_points",
        ],
    ),
    Defect(
        "norm: a Cholesky decomposition that fails counts as a proof",
        edit(_decomposes, "info == 0", "info >= 0"),
        [NORMS + "test_bounds_hold_where_the_estimate_is_too_low"],
    ),
    Defect(
        "norm: the rounding of a Cholesky decomposition is ignored",
        edit(_decomposes, "shift = bound - unit", "shift = bound - 0 * unit"),
        [NORMS + "test_single_precision_proves_no_bound_below_the_norm"],
    ),
    Defect(
        "norm: the factor sqrt(kh kw) of a reshaped filter is missing",
        edit(reshaped_filter_bound, "sqrt(prod(weight.shape[-2:])) * ", ""),
        [NORMS + "test_bounds_hold_on_maps_of_several_sizes"],
    ),
    Defect(
        "norm: the factor sqrt(kh kw) of torch's convolution is missing",
        attribute(lipnet.certify.torch_rules, "sqrt", lambda number: 1.0),
        [BOUND + "test_convolution_is_bounded_within_the_root_of_its_taps"],
    ),
    Defect(
        "groups: the smallest norm of a group instead of the largest",
        edit(reshaped_filter_bound, "max(bounds)", "min(bounds)"),
        [NORMS + "test_bounds_hold_on_maps_of_several_sizes"],
    ),
    Defect(
        "groups: the mean norm over the groups of torch's convolution",
        attribute(lipnet.certify.torch_rules, "max", lambda *values: sum(values[0]) / len(values[0]), new=True),
        [BOUND + "test_the_largest_group_of_a_convolution_counts"],
    ),
    Defect(
        "product: rounded to nearest",
        replace(product_up, lambda factors: float(prod(factors))),
        ["tests/functional/test_rounding.py::test_product_up_is_not_below_the_exact_product"],
    ),
    Defect(
        "product: the last child of a Sequential is skipped",
        replace(children_in_order, _without_the_last),
        [BOUND + "test_sequential_multiplies", BOUND + "test_a_module_that_runs_twice_counts_twice"],
    ),
    Defect(
        "product: a module that occurs twice counts once",
        replace(children_in_order, _each_module_once),
        [BOUND + "test_a_module_that_runs_twice_counts_twice"],
    ),
    Defect(
        "orthogonal matrices: the residual of the matrix in use is not measured",
        replace(orthogonal_norm_bound, lambda matrices: 1.0),
        [
            "tests/layers/test_orthogonal_mixing.py::test_the_bound_covers_the_drift_of_an_optimizer_without_retraction",
            "tests/layers/test_spatial_shift.py::test_drift_of_the_rotation_counts_twice",
            "tests/layers/test_shifts_of_features.py::test_the_bound_is_that_of_the_rounded_rotation",
        ],
    ),
    Defect(
        "orthogonal matrices: the rotation of a spatial mixing counts once",
        edit_method(SpatialMixing, "lipschitz_bound", "] * 2)", "])"),
        ["tests/layers/test_spatial_shift.py::test_drift_of_the_rotation_counts_twice"],
    ),
    Defect(
        "LiRes: the estimate that scales counts as the bound",
        attribute(ScaledConv2d, "bound_operands", lambda self, operands: 1.0),
        ["tests/layers/test_lires.py::test_the_bound_is_not_the_estimate_that_scales"],
    ),
    Defect(
        "LiRes: the residual connection is left out of the bounded kernel",
        attribute(ScaledConv2d, "bound_operands", _bound_without_identity),
        ["tests/layers/test_lires.py::test_the_bound_is_just_above_the_norm"],
    ),
    Defect(
        "LiRes: the gap between the frequencies of the grid is not covered",
        edit(kernel_norm_bound, "if points is None:\n        norm *=", "if False:\n        norm *="),
        [
            "tests/functional/test_kernel_norms.py::test_a_peak_between_the_frequencies_of_the_grid_is_covered",
        ],
    ),
    Defect(
        "LiRes: zero padding counts as circular at its own size",
        edit_method(ScaledConv2d, "_frequencies", 'self.padding_mode == "circular"', "True"),
        ["tests/layers/test_lires.py::test_zero_padding_may_exceed_the_frequencies_of_its_own_size"],
    ),
]
