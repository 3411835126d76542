"""Defects of SOC, heads, activations, residual blocks and pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import lipnet.functional.pairwise
import lipnet.functional.skew
import lipnet.layers.activations
from lipnet.certify.rules import find_rule
from lipnet.functional import polynomial_gain
from lipnet.functional.convolution import PADDING_MODES
from lipnet.functional.series import monic_polynomial, taylor_coefficients
from lipnet.layers import GSSOC, MirrorAverage, NormalizedLinear, NormPool2d, Residual
from lipnet.layers.arguments import for_channels
from lipnet.layers.engines import PreparedWeight, Series
from lipnet.layers.originals import methods_of
from lipnet.layers.soc import SOC
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace

LOGITS, GUARANTEE = "tests/certify/test_bounds.py::", "tests/layers/test_soc_guarantee.py::"
_adjoint, _prepare = lipnet.functional.skew._adjoint, SOC._prepare


def _five_terms(self: SOC) -> PreparedWeight:
    """Prepare the weight with its own gain, but with Taylor's polynomial of degree 5."""
    right = _prepare(self)
    series = Series(*monic_polynomial(taylor_coefficients(5)))
    prepared = dataclasses.replace(right, series=series, factored=(right.filter * series.factor).to(self.weight.dtype))
    vars(prepared)["gain"] = right.gain
    return prepared


def _at_the_ends(coefficients: Sequence[Fraction | float], norm: float) -> float:
    """The gain at the interval's ends alone."""
    values = [abs(sum(complex(c) * (1j * t) ** k for k, c in enumerate(coefficients))) for t in (0.0, norm)]
    return max(values)


def _every_row_sqrt_two(self: NormalizedLinear) -> Tensor:
    return torch.full((self.out_features, self.out_features), 2**0.5, dtype=torch.float64)


def _body_first(self: Residual, x: Tensor) -> Tensor:
    branch: Tensor = self.body(x)
    return x * self.skip + branch * self.branch


def _plant_body_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Residual, "forward", _body_first)
    # As if the rule had been registered for the faulty class.
    patch.setattr(find_rule(Residual(nn.Identity())), "methods", methods_of(Residual))


def _plant_sum_of_mirror_images(patch: pytest.MonkeyPatch) -> None:
    edit_method(MirrorAverage, "forward", " / 2", "")(patch)
    patch.setattr(find_rule(MirrorAverage(nn.Identity())), "methods", methods_of(MirrorAverage))


DEFECTS = [
    Defect(
        "constants: a bias of three entries repeats a single channel",
        edit(for_channels, "constants.shape != maps.shape[1:2]", "False"),
        ["tests/layers/test_constants_of_channels.py::test_they_are_refused"],
    ),
    Defect(
        "head: sqrt(2) for rows that are normalised but not orthogonal",
        attribute(NormalizedLinear, "pairwise_lipschitz", _every_row_sqrt_two),
        [
            LOGITS + "test_a_class_behind_the_runner_up_may_be_the_nearest",
            "tests/layers/test_heads.py::test_differences_of_logits_are_bounded_by_the_distances_of_the_rows",
        ],
    ),
    Defect(
        "product: only the first of a layer's two convolutions counts",
        attribute(GSSOC, "lipschitz_bound", lambda self: self.spatial.lipschitz_bound()),
        ["tests/layers/test_gssoc.py::test_the_bound_is_the_product_of_both_convolutions"],
    ),
    Defect(
        "residual: the input is read again after an in-place body",
        _plant_body_first,
        ["tests/layers/test_residual.py::test_the_bound_holds_for_bodies_that_work_in_place"],
    ),
    Defect(
        "mirror: the sum of both results counts as their average",
        _plant_sum_of_mirror_images,
        ["tests/layers/test_mirror.py::test_their_bounds_hold"],
    ),
    Defect(
        "mirror: the rounding of the average is ignored",
        edit_method(type(find_rule(MirrorAverage(nn.Identity()))), "rounding", "accumulated(1)", "0"),
        ["tests/certify/test_rounding.py::test_the_error_of_each_layer_is_covered"],
    ),
    Defect(
        "padding: 'reflect' is accepted",
        replace(PADDING_MODES, (*PADDING_MODES, "reflect")),
        ["tests/layers/test_soc.py::test_settings_that_break_the_guarantee_are_refused"],
    ),
    Defect(
        "filter: the transpose has the wrong sign, so the filter is not skew",
        attribute(lipnet.functional.skew, "_adjoint", lambda grouped: -_adjoint(grouped)),
        [
            "tests/functional/test_skew.py::test_the_skew_filter_has_the_skew_part_of_the_matrix",
            "tests/functional/test_skew.py::test_the_formula_index_by_index",
        ],
    ),
    Defect(
        "filter: the transpose does not flip the taps",
        attribute(lipnet.functional.skew, "_adjoint", lambda grouped: grouped.transpose(1, 2)),
        ["tests/functional/test_skew.py::test_the_skew_filter_has_the_skew_part_of_the_matrix"],
    ),
    Defect(
        "series: 5 terms in evaluation, with the gain of another number of terms",
        attribute(SOC, "_prepare", _five_terms),
        [GUARANTEE + "test_in_single_precision"],
    ),
    Defect(
        "series: the evaluation tolerance is ignored",
        edit_method(SOC, "_prepare", "self.eval_tolerance", "0.05"),
        ["tests/layers/test_soc.py::test_each_mode_is_as_near_the_exponential_as_its_tolerance"],
    ),
    Defect(
        "series: the gain is computed at the ends of the interval only",
        replace(polynomial_gain, _at_the_ends),
        [
            "tests/functional/test_gain.py::test_gain_finds_a_maximum_in_the_interior",
        ],
    ),
    Defect(
        "activation: the larger entry of a pair is returned twice",
        attribute(lipnet.layers.activations, "sort_pairs", lambda a, b: (torch.maximum(a, b), torch.maximum(a, b))),
        [
            "tests/layers/test_activations.py::test_the_jacobian_is_a_permutation",
            "tests/layers/test_activations.py::test_two_inputs_never_move_apart",
        ],
    ),
    Defect(
        "head: distances of rows are rounded to nearest",
        attribute(lipnet.functional.pairwise, "_ROUNDING", 1.0),
        ["tests/functional/test_pairwise.py::test_distances_are_the_exact_ones_rounded_up"],
    ),
    Defect(
        "pooling: the root of the sum of squares is missing",
        edit_method(
            NormPool2d, "forward", "torch.linalg.vector_norm(windows, dim=(3, 5))", "windows.square().sum((3, 5))"
        ),
        ["tests/layers/test_pooling.py::test_the_bound_is_reached_and_kept"],
    ),
]
