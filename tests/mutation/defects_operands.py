"""Defects of cached operands, and of the checks that a model is, and stays, what its bounds were computed for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from lipnet.certify.certificates import certify
from lipnet.certify.checks import _check_children
from lipnet.certify.rounding import _check_float64
from lipnet.layers import ScaledConv2d
from lipnet.layers.arguments import check_odd, check_weight
from lipnet.layers.base import check_part
from lipnet.layers.cache import WeightCache, _same_values, _written
from lipnet.layers.frequency import FrequencyLayer
from lipnet.layers.operands import OperandLayer, Operands, _Prepared
from lipnet.layers.potential import GradientStep
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace

TAMPERING = "tests/certify/test_tampering.py::"
SHAPES = "tests/layers/test_weight_shapes.py::"
CONTRADICTIONS = TAMPERING + "test_settings_that_contradict_each_other_or_the_weight_are_refused"


def _kept_anyway(self: WeightCache[Any], weights: Sequence[Tensor], compute: Callable[[], Any], **_: Any) -> Any:
    if self._kept is None or not _same_values(self._kept[0], weights):
        self._kept = [weight.detach().clone() for weight in weights], compute()
    return self._kept[1]


def _stored_anyway(self: OperandLayer, size: tuple[int, int]) -> Operands:
    weights, prepared = self.weights(), self._prepared()
    key = size if self.by_size else None
    if key not in prepared.operands:
        prepared.operands[key] = self._evaluated([weight.detach().clone() for weight in weights], size)
    return prepared.operands[key]


DEFECTS = [
    Defect(
        "cache: constants that a caller wrote into are used again",
        replace(_written, lambda value, version: False),
        [
            f"{TAMPERING}test_constants_that_a_caller_writes_into_are_computed_again[{name}]"
            for name in ("filter of a series", "dense matrix", "matrices of frequencies", "rotation")
        ],
    ),
    Defect(
        "operands: a setting changes and the bound stays",
        attribute(OperandLayer, "_settings", lambda self: {}),
        [TAMPERING + "test_a_setting_that_changes_after_the_bound_is_in_the_next_bound[AOL groups]"],
    ),
    Defect(
        "operands: an entry of a setting changes and the bound stays",
        edit_method(OperandLayer, "_settings", "tuple(value) if isinstance(value, list) else value", "value"),
        [TAMPERING + "test_an_entry_of_a_setting_that_changes_in_place_is_in_the_next_bound"],
    ),
    Defect(
        "operands: a caller writes into cached operands and the bound stays",
        edit_method(OperandLayer, "operands", "each.clone() for each", "each for each"),
        [TAMPERING + "test_a_caller_who_writes_into_operands_changes_a_copy"],
    ),
    Defect(
        "operands: those that a caller wrote into are used again",
        attribute(_Prepared, "written", lambda self: False),
        [
            TAMPERING + "test_operands_that_a_caller_writes_into_are_computed_again[AOL]",
            TAMPERING + "test_a_real_form_that_a_caller_writes_into_is_computed_again",
        ],
    ),
    Defect(
        "operands: those that are stored later may be written into",
        edit_method(
            FrequencyLayer,
            "_explicit_form",
            "prepared.store(key, (form, matrices))",
            "prepared.operands[key] = form, matrices",
        ),
        [TAMPERING + "test_a_real_form_that_a_caller_writes_into_is_computed_again"],
    ),
    Defect(
        "weights: one of another shape than the settings state is accepted",
        edit(check_weight, "weight.shape != shape", "False"),
        [
            f"{SHAPES}test_a_parameter_that_torch_would_accept_is_refused[{name}]"
            for name in ("AOL", "CPL", "SLL", "NormalizedLinear", "Sandwich")
        ],
    ),
    Defect(
        "weights: only certificates compare shapes",
        edit_method(OperandLayer, "forward", "self.check()", "pass"),
        [SHAPES + "test_a_parameter_that_torch_would_accept_is_refused[AOL]"],
    ),
    Defect(
        "weights: an even kernel is accepted",
        replace(check_odd, lambda kernel_size, dimensions=2: None),
        [f"{SHAPES}test_an_even_kernel_is_refused_even_if_kernel_size_states_it[{name}]" for name in ("AOL", "CPL")],
    ),
    Defect(
        "dtypes: only parameters must be float64",
        edit(_check_float64, "{**vars(module), **module._parameters, **module._buffers}", "module._parameters"),
        [
            f"tests/certify/test_rounding.py::test_other_tensors_in_other_dtypes_are_refused[{kind}-dtype0]"
            for kind in ("buffer", "attribute")
        ],
    ),
    Defect(
        "operands: those of weights that changed meanwhile are cached",
        attribute(OperandLayer, "_prepared_operands", _stored_anyway),
        [TAMPERING + "test_weights_that_another_thread_changes_for_a_moment_leave_no_stale_operands"],
    ),
    Defect(
        "operands: the bound of weights that changed meanwhile is cached",
        edit_method(OperandLayer, "lipschitz_bound", "if self._prepared(exact=True) is prepared:", "if True:"),
        [TAMPERING + "test_weights_that_another_thread_changes_leave_the_bound_of_a_copy_alone"],
    ),
    Defect(
        "cache: a value of weights that changed meanwhile is kept",
        attribute(WeightCache, "get", _kept_anyway),
        ["tests/layers/test_cache.py::test_a_value_is_not_kept_if_its_weights_change_meanwhile[True]"],
    ),
    Defect(
        "frequency: the real form of another response is used",
        edit_method(FrequencyLayer, "_explicit_form", "form is None or source is not matrices", "form is None"),
        [TAMPERING + "test_the_real_form_of_a_response_belongs_to_that_response"],
    ),
    Defect(
        "checks: a layer may have parts of other classes than its bound is about",
        replace(check_part, lambda name, part, *classes: None),
        [
            f"{TAMPERING}test_a_part_of_another_class_than_the_bound_rests_on_is_refused[{name}]"
            for name in ("activation as a shift", "shift with a bound of its own", "rotation", "matrix", "scaling")
        ],
    ),
    Defect(
        "scaled: padding that repeats pixels is accepted after construction",
        attribute(ScaledConv2d, "check", lambda self: None),
        [CONTRADICTIONS + "[repeated pixels]", CONTRADICTIONS + "[kernel size]"],
    ),
    Defect(
        "scaled: the frequencies of circular maps smaller than the kernel are those of larger ones",
        edit_method(
            ScaledConv2d, "_frequencies", "length * -(-taps // length) if circular", "max(taps, 9) if circular"
        ),
        ["tests/layers/test_lires.py::test_the_bound_holds_on_maps_that_are_smaller_than_the_kernel"],
    ),
    Defect(
        "gradient step: input channels that are dropped are not noticed",
        attribute(GradientStep, "check", lambda self: None),
        [CONTRADICTIONS + "[dropped inputs]", CONTRADICTIONS + "[dropped inputs of CPL]"],
    ),
    Defect(
        "checks: children need not be registered",
        replace(_check_children, lambda name, module: None),
        [TAMPERING + "test_listed_children_that_are_not_registered_are_refused"],
    ),
    Defect(
        "certify: the model may change meanwhile",
        edit(certify, "state_of(model) != before", "False"),
        [TAMPERING + "test_a_model_that_changes_while_it_is_certified_is_an_error"],
    ),
]
