"""Defects of rules for modules, and of the checks that a model computes what its modules declare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import nn

import lipnet.certify.rules
import lipnet.overrides
from lipnet.certify import Rule
from lipnet.certify.checks import (
    _check_calls,
    _check_in_place,
    _check_numbers,
    _overridden_below,
    _overridden_helper,
    check_computes_as_declared,
)
from lipnet.certify.rules import _bound_of, evaluated, find_rule
from lipnet.certify.torch_rules import _check_shape
from lipnet.certify.torch_rules_activations import _GELU, _Softplus
from lipnet.certify.torch_rules_batchnorm import _BatchNorm, _quotient_up
from lipnet.certify.torch_rules_resampling import _AvgPool2d, _MaxPool2d
from lipnet.certify.trial_run import _check_chain, _run_part
from lipnet.layers import LipschitzModule
from lipnet.layers.explicit import explicit_products
from lipnet.layers.soc import SOC
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace

BOUND, CERTIFICATES, CHECKS, TAMPERING, TORCH_RULES = (
    f"tests/certify/test_{name}.py::" for name in ("rules", "certificates", "checks", "tampering", "torch_rules")
)


@contextmanager
def _explicit_at_first(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, SOC)]
    with lipnet.overrides.override_attributes(layers, "explicit", True):
        yield


class _One(Rule):
    def lipschitz(self, module: nn.Module) -> float:
        return 1.0


def _lenient(module: nn.Module) -> Rule | None:
    found = find_rule(module)
    if found is None and not isinstance(module, LipschitzModule):
        found = _One()
        found.bind(type(module))
    return found


def _any_sequential(module: nn.Module) -> Rule | None:
    found = find_rule(module)
    if found is None and isinstance(module, nn.Sequential) and not isinstance(module, LipschitzModule):
        found = type(lipnet.certify.rules._RULES[nn.Sequential])()
        found.bind(type(module))
    return found


DEFECTS = [
    Defect(
        "rules: a residual block counts as the Sequential that it inherits from",
        replace(find_rule, _any_sequential),
        [BOUND + "test_a_module_without_a_rule_is_named"],
    ),
    Defect(
        "rules: a module without a rule gets the bound 1",
        replace(find_rule, _lenient),
        [BOUND + "test_a_module_without_a_rule_is_named"],
    ),
    Defect(
        "rules: training mode, hooks and parametrizations are accepted",
        replace(check_computes_as_declared, lambda model: None),
        [
            BOUND + "test_training_mode_is_refused_wherever_it_is",
            BOUND + "test_hooks_are_refused",
            CERTIFICATES + "test_a_model_in_training_mode_is_refused",
        ],
    ),
    Defect(
        "checks: in-place modules overwrite an input that is read again",
        replace(_check_in_place, lambda path, module, shared: None),
        [CHECKS + "test_in_place_modules_are_refused_where_their_input_is_read_again"],
    ),
    Defect(
        "checks: two threads change torch's settings at once",
        attribute(lipnet.overrides, "_LOCK", nullcontext()),
        [
            CHECKS + "test_one_thread_at_a_time_computes_certificates",
            CHECKS + "test_layers_compute_in_one_way_until_their_logits_are_complete[explicit_products]",
            CHECKS + "test_layers_compute_in_one_way_until_their_logits_are_complete[estimated_scales]",
        ],
    ),
    Defect(
        "checks: a layer that leaves explicit arithmetic meanwhile goes unnoticed",
        replace(explicit_products, _explicit_at_first),
        [CHECKS + "test_a_layer_that_leaves_explicit_arithmetic_meanwhile_is_an_error"],
    ),
    Defect(
        "checks: a forward replaced on an instance gets the bound of the class",
        replace(_check_calls, lambda name, module: None),
        [CHECKS + "test_a_call_of_an_instance_s_own_is_refused", CHECKS + "test_compiled_modules_are_refused"],
    ),
    Defect(
        "checks: a forward overridden in a subclass gets the inherited bound",
        replace(_overridden_below, lambda cls, answer: None),
        [
            CHECKS + "test_a_call_that_is_overridden_below_the_bound_is_refused",
            CHECKS + "test_no_answer_of_another_function_is_taken",
        ],
    ),
    Defect(
        "checks: a helper overridden in a subclass gets the inherited bound",
        replace(_overridden_helper, lambda order, defining: None),
        [TAMPERING + "test_a_subclass_that_overrides_what_its_bound_rests_on_is_refused"],
    ),
    Defect(
        "checks: global hooks are accepted",
        edit(
            check_computes_as_declared,
            "torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks",
            "False",
        ),
        [CHECKS + "test_global_hooks_are_refused"],
    ),
    Defect(
        "checks: listed children need not run",
        replace(_check_chain, lambda path, module, inputs, expected: None),
        [
            CHECKS + "test_children_that_are_listed_but_do_not_run_are_noticed",
            CHECKS + "test_children_of_a_part_that_do_not_run_are_noticed",
        ],
    ),
    Defect(
        "checks: the modules of a part need not run",
        replace(_run_part, lambda path, module, shape: ()),
        [CHECKS + "test_children_of_a_part_that_do_not_run_are_noticed"],
    ),
    Defect(
        "rules: replaced parts of a layer are ignored",
        edit(_bound_of, "in children or parts]", "in children or parts if not children or find_rule(inner) is None]"),
        [CHECKS + "test_exchanged_parts_are_bounded_by_what_they_are_now"],
    ),
    Defect(
        "rules: attributes that contradict the weight are accepted",
        replace(_check_shape, lambda module, stated, outputs=None: None),
        [CHECKS + "test_attributes_that_contradict_the_weight_are_refused"],
    ),
    Defect(
        "pooling: windows of maxima that overlap count once",
        edit_method(
            _MaxPool2d,
            "lipschitz",
            "Fraction(prod(-(-k // p) for k, p in zip(kernel, period, strict=True)))",
            "Fraction(1)",
        ),
        [TORCH_RULES + "test_overlapping_maxima_reach_the_root_of_the_windows_of_a_pixel"],
    ),
    Defect(
        "pooling: maxima of padding alone count as values of the map",
        edit_method(_MaxPool2d, "rounding", "if not all(", "if False and not all("),
        ["tests/certify/test_rounding.py::test_maxima_of_padding_alone_are_refused[rows]"],
    ),
    Defect(
        "pooling: windows of means that overlap count once",
        edit_method(_AvgPool2d, "lipschitz", "max(0, k - abs(j) * s)", "max(0, k - abs(j) * k)"),
        [TORCH_RULES + "test_overlapping_means_are_bounded_by_their_matrices"],
    ),
    Defect(
        "batch normalisation: the scale of the channels is missing",
        edit(_quotient_up, "Fraction(weight) ** 2", "1"),
        [TORCH_RULES + "test_batch_norm_is_bounded_by_its_steepest_channel"],
    ),
    Defect(
        "batch normalisation: the statistics of the batch are accepted",
        edit_method(
            _BatchNorm,
            "_factors",
            "if mean is None or variance is None:",
            "if mean is None:\n        return [1.0]\n    if False:",
        ),
        [TORCH_RULES + "test_batch_norm_by_the_statistics_of_the_batch_is_refused"],
    ),
    Defect(
        "parametrization: the stored weight is bounded instead of the one that is multiplied with",
        edit(
            evaluated,
            "weight = getattr(module, name)\n"
            "        with torch.enable_grad():\n"
            "            again = getattr(module, name)",
            "weight = again = module.parametrizations[name].original",
        ),
        [TORCH_RULES + "test_a_parametrized_module_is_bounded_by_the_weight_that_it_multiplies_with[doubled]"],
    ),
    Defect(
        "activations: GELU counts as 1-Lipschitz",
        attribute(_GELU, "slopes", {"none": 1.0, "tanh": 1.0}),
        [TORCH_RULES + "test_slopes_that_are_rounded_decimals_are_the_largest"],
    ),
    Defect(
        "rounding: the jump of Softplus at its threshold is ignored",
        edit_method(_Softplus, "rounding", "log1p(exp(-module.threshold * (1 - 1e-10)))", "0.0"),
        [TORCH_RULES + "test_the_jump_of_softplus_at_its_threshold_counts_as_rounding"],
    ),
    Defect(
        "checks: complex weights, subclasses of Tensor and NaN settings are accepted",
        replace(_check_numbers, lambda name, module: None),
        [
            CHECKS + "test_weights_that_are_no_plain_real_tensors_are_refused",
            CHECKS + "test_settings_that_are_no_numbers_are_refused",
        ],
    ),
    Defect(
        "rules: negative and NaN bounds are accepted",
        edit(_bound_of, "if isnan(bound) or bound < 0:", "if False:"),
        [CHECKS + "test_bounds_that_are_none_are_refused"],
    ),
]
