"""The defects: what each does to lipnet, and which tests must see it.

Most have been somebody's: in published code, or in an earlier state of a certificate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lipnet.certify.rules
import lipnet.certify.torch_rules
import lipnet.functional.convolution
import lipnet.functional.frequency
import lipnet.functional.margins
import lipnet.functional.norm_estimates
import lipnet.functional.pairwise
import lipnet.functional.skew
import lipnet.layers.activations
import lipnet.layers.engines.prepared
import lipnet.metrics.functional
import lipnet.overrides
from lipnet import tensor_file
from lipnet.certify import PGD, Rule, certify
from lipnet.certify.arithmetic import ieee_arithmetic
from lipnet.certify.attacks import geometry
from lipnet.certify.checks import (
    _check_calls,
    _check_in_place,
    _check_numbers,
    _overridden_below,
    _overridden_helper,
    check_computes_as_declared,
)
from lipnet.certify.files import rows_of
from lipnet.certify.html.runs import Run, read_run
from lipnet.certify.partial import PartialCertification
from lipnet.certify.rules import _bound_of, children_in_order, evaluated, find_rule, step_of
from lipnet.certify.runs import _check_chain, _run, _run_part, check_images_apart
from lipnet.certify.torch_rules import _check_shape
from lipnet.certify.torch_rules_activations import _GELU, _Softplus
from lipnet.certify.torch_rules_batchnorm import _BatchNorm, _quotient_up
from lipnet.certify.torch_rules_resampling import _AvgPool2d, _MaxPool2d
from lipnet.data import FolderDataModule, ImageDataModule
from lipnet.data.fingerprint import fingerprint
from lipnet.data.samplers import ShardSampler
from lipnet.functional import (
    polynomial_gain,
    product_up,
    reshaped_filter_bound,
    spectral_norm_bound,
    symbol_bound,
)
from lipnet.functional.contractions import orthogonal_norm_bound
from lipnet.functional.eigenvalue_bounds import _decomposes
from lipnet.functional.kernel_norms import kernel_norm_bound
from lipnet.functional.margins import certified_radius, less_errors, round_down, top_margin
from lipnet.functional.pairwise import pairwise_certified_radius
from lipnet.functional.rounding_error import absolute_norm, accumulated
from lipnet.functional.series import monic_polynomial, taylor_coefficients
from lipnet.layers import (
    GSSOC,
    LipschitzModule,
    MirrorAverage,
    Normalize,
    NormalizedLinear,
    NormPool2d,
    Residual,
    ScaledConv2d,
    SpatialMixing,
)
from lipnet.layers.cache import WeightCache
from lipnet.layers.engines import PreparedWeight, Series
from lipnet.layers.explicit import explicit_products
from lipnet.layers.originals import methods_of
from lipnet.layers.soc import SOC
from lipnet.metrics.functional import _certified_accuracy_update, _proven_radius
from lipnet.models import checkpoint, load_checkpoint, pretrained
from lipnet.models.checkpoint import _check_fit
from lipnet.structured.adapters import attachment
from tests.mutation.defects_identity import ROWS as IDENTITY
from tests.mutation.defects_layers_gs import ROWS as GROUP_AND_SHUFFLE
from tests.mutation.defects_layers_spatial import ROWS as SPATIAL_LAYERS
from tests.mutation.defects_operands import ROWS as OPERANDS
from tests.mutation.planting import Plant, attribute, edit, edit_method, edited, replace


@dataclass(frozen=True)
class Defect:
    """A defect, and the tests that must fail with it: each of them, and with a verdict of its own."""

    name: str
    plant: Plant
    catchers: Sequence[str]


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


def _stale(
    self: WeightCache[Any],
    weights: Sequence[Tensor],
    compute: Callable[[], Any],
    *,
    settings: object = None,
    exact: bool = False,
) -> Any:
    if self._kept is None:
        with torch.no_grad():
            self._kept = [weight.detach().clone() for weight in weights], compute()
    return self._kept[1]


_prepare = SOC._prepare


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


def _without_the_last(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    children = children_in_order(module)
    return children[:-1] if children is not None and len(children) > 1 else children


def _each_module_once(module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    return None if children_in_order(module) is None else list(module.named_children())


@contextmanager
def _explicit_at_first(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, SOC)]
    with lipnet.overrides.override_attributes(layers, "explicit", True):
        yield


@contextmanager
def _as_it_is(changed: torch.device | nn.Module) -> Any:
    yield


def _lenient_weights(patch: pytest.MonkeyPatch) -> None:
    """Weights are checked twice: before the model is allocated, and when they are loaded."""
    edit(_check_fit, "if missing or surplus:", "if surplus:")(patch)
    edit(load_checkpoint, "model.load_state_dict(state)", "model.load_state_dict(state, strict=False)")(patch)


def _padded(self: ShardSampler) -> Iterator[int]:
    """Yield equally many samples in each process, as torch's own sampler does."""
    count = -(-self.total_size // self.num_replicas)
    return iter([(self.rank + i * self.num_replicas) % self.total_size for i in range(count)])


def _backwards(self: ShardSampler) -> Iterator[int]:
    return iter(range(self.rank, self.total_size, self.num_replicas)[::-1])


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
        found = type(_RULES._RULES[nn.Sequential])()
        found.bind(type(module))
    return found


def _nearest(radius: float, decimals: int = 3) -> str:
    return f"{radius:.{decimals}f}"


def _to_nearest(logits: Tensor, lipschitz: float, error: float = 0.0) -> tuple[Tensor, Tensor]:
    largest, second = logits.double().topk(2, dim=1).values.unbind(dim=1)
    return logits.argmax(dim=1), ((largest - second) / (2**0.5 * lipschitz)).nan_to_num(nan=0.0)


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


_adjoint = lipnet.functional.skew._adjoint
_RULES = lipnet.certify.rules
_TORCH_RULES = lipnet.certify.torch_rules
_MODES = lipnet.functional.convolution.PADDING_MODES
# The smallest and the largest of CIFAR-100's standard deviations.
_STDS = (0.2565, 0.2762)

NORMS, MARGINS, PAIRWISE = (f"tests/functional/test_{name}.py::" for name in ("norm_bounds", "margins", "pairwise"))
BOUND, CERTIFICATES, LOGITS, CHECKS = (
    f"tests/certify/test_{name}.py::" for name in ("rules", "certificates", "bounds", "checks")
)
TORCH_RULES = "tests/certify/test_torch_rules.py::"
TAMPERING = "tests/certify/test_tampering.py::"
GUARANTEE = "tests/layers/test_soc_guarantee.py::"

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
        "radius: the factor sqrt(2) is missing",
        edit(certified_radius, "math.sqrt(2) * float(lipschitz)", "float(lipschitz)"),
        [
            MARGINS + "test_radius_never_exceeds_the_exact_quotient",
            CERTIFICATES + "test_sqrt_two_is_reached_by_the_identity",
        ],
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
        "radius: only the runner-up is compared, although each class has its own bound",
        edit(
            pairwise_certified_radius,
            "quotients.scatter(1, place, math.inf).amin(dim=1)",
            "quotients.gather(1, scores.scatter(1, place, -math.inf).argmax(dim=1, keepdim=True)).squeeze(1)",
        ),
        [
            PAIRWISE + "test_the_runner_up_may_be_further_than_another_class",
            LOGITS + "test_a_class_behind_the_runner_up_may_be_the_nearest",
        ],
    ),
    Defect(
        "radius: every operation rounds to nearest",
        replace(certified_radius, _to_nearest),
        [MARGINS + "test_radius_never_exceeds_the_exact_quotient"],
    ),
    Defect(
        "rounding: E is ignored",
        replace(less_errors, lambda margins, errors: margins),
        [
            MARGINS + "test_errors_of_the_logits_are_taken_off_and_rounded_down",
            PAIRWISE + "test_the_error_of_each_pair_is_taken_off_twice",
            CERTIFICATES + "test_the_radius_is_never_more_than_without_rounding",
        ],
    ),
    Defect(
        "rounding: E is subtracted only once, for the image",
        edit(certified_radius, "2 * math.sqrt(2) * error", "math.sqrt(2) * error"),
        [MARGINS + "test_a_margin_within_the_errors_certifies_nothing"],
    ),
    Defect(
        "rounding: a sum of any length counts as one rounding",
        replace(accumulated, lambda roundings: 2.0**-53),
        ["tests/functional/test_rounding_error.py::test_accumulated_roundings_are_gamma"],
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
        "rounding: squares that underflow count as 0",
        edit(absolute_norm, "< _SMALLEST_SQUARED", "< 0"),
        [
            "tests/functional/test_rounding_error.py::"
            "test_norms_of_entries_whose_squares_underflow_are_not_below_the_exact_ones"
        ],
    ),
    Defect(
        "rounding: a module without a rule counts as exact",
        edit(step_of, "raise TypeError(", "return Step(signal.norm)\n        raise TypeError("),
        ["tests/certify/test_rounding.py::test_a_module_without_a_rule_is_named"],
    ),
    Defect(
        "rounding: certificates use Fourier transforms, whose rounding has no bound",
        replace(explicit_products, _as_it_is),
        ["tests/certify/test_deviation.py::test_a_circular_network_is_certified_as_it_is_deployed"],
    ),
    Defect(
        "radius: rounded to nearest when written",
        replace(round_down, _nearest),
        [
            MARGINS + "test_round_down_is_the_greatest_decimal_below",
            "tests/certify/test_run.py::test_radii_are_written_rounded_down_to_nine_decimals",
        ],
    ),
    Defect(
        "radius: a NaN or infinite margin certifies",
        edit(top_margin, "torch.where(finite, ", "torch.where(finite | True, "),
        [MARGINS + "test_rows_that_are_not_finite_certify_nothing"],
    ),
    Defect(
        "certified at r: >= instead of >",
        edit(_certified_accuracy_update, ".unsqueeze(1) > limits", ".unsqueeze(1) >= limits"),
        ["tests/metrics/test_certified_accuracy.py::test_the_ball_is_open"],
    ),
    Defect(
        "certified at r: wrong predictions count",
        edit(_proven_radius, "correct & radius.isfinite()", "radius.isfinite()"),
        ["tests/metrics/test_certified_accuracy.py::test_matches_counting_over_unequal_batches"],
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
        attribute(_TORCH_RULES, "sqrt", lambda number: 1.0),
        [BOUND + "test_convolution_is_bounded_within_the_root_of_its_taps"],
    ),
    Defect(
        "groups: the smallest norm of a group instead of the largest",
        edit(reshaped_filter_bound, "max(bounds)", "min(bounds)"),
        [NORMS + "test_bounds_hold_on_maps_of_several_sizes"],
    ),
    Defect(
        "groups: the mean norm over the groups of torch's convolution",
        attribute(_TORCH_RULES, "max", lambda *values: sum(values[0]) / len(values[0]), new=True),
        [BOUND + "test_the_largest_group_of_a_convolution_counts"],
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
        "rules: a residual block counts as the Sequential that it inherits from",
        replace(find_rule, _any_sequential),
        [BOUND + "test_a_module_without_a_rule_is_named"],
    ),
    Defect(
        "weights: weights that a checkpoint lacks stay random",
        _lenient_weights,
        ["tests/models/test_checkpoint.py::test_weights_that_do_not_fit_the_model"],
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
        "rounding: images that a model mixes are certified one by one",
        replace(check_images_apart, lambda model, image_shape: None),
        [TAMPERING + "test_a_batch_that_counts_as_channels_is_refused"],
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
    Defect(
        "rounding: modules may mix the images of a batch",
        edit(_run, "if values.shape[:1] != (_BATCH,):", "if False:"),
        [CHECKS + "test_modules_that_mix_the_images_of_a_batch_are_refused"],
    ),
    Defect(
        "padding: 'reflect' is accepted",
        replace(_MODES, (*_MODES, "reflect")),
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
        "samples: the last process repeats samples of the first, and they count",
        attribute(ShardSampler, "__iter__", _padded),
        [
            "tests/data/test_image_data_module.py::test_processes_share_the_evaluation_without_repeats_and_the_training_evenly"
        ],
    ),
    Defect(
        "samples: the order of evaluation is not that of the indices",
        attribute(
            ShardSampler, "__iter__", lambda self: iter(range(self.rank, self.total_size, self.num_replicas)[::-1])
        ),
        ["tests/data/test_image_data_module.py::test_evaluation_is_in_dataset_order_without_augmentation"],
    ),
    Defect(
        "samples: repeated certificates, or those of other samples, make a file",
        edit_method(
            PartialCertification,
            "all_rows",
            "if [row.idx for row in rows] != list(indices):",
            "if len(rows) < len(indices):",
        ),
        ["tests/certify/test_partial.py::test_certificates_of_other_samples_do_not_make_a_file"],
    ),
    Defect(
        "samples: each label stands beside the certificate of the next image",
        edit(rows_of, "columns = (indices, labels,", "columns = (indices, labels.roll(1),"),
        ["tests/certify/test_run.py::test_a_line_for_each_sample_in_order"],
    ),
    Defect(
        "samples: test images that are chosen anew may be images of the training",
        attribute(FolderDataModule, "settings_behind", lambda self, split: ()),
        ["tests/data/test_certified_data.py::test_images_that_the_training_may_have_seen_are_not_certified"],
    ),
    Defect(
        "samples: the folder of the training images is certified as if they were test images",
        edit_method(FolderDataModule, "settings_behind", ', "test_folder")', ")"),
        ["tests/data/test_certified_data.py::test_the_training_images_of_a_folder_with_test_images_are_no_test_images"],
    ),
    Defect(
        "samples: other images with the names of those of the training pass for them",
        replace(fingerprint, lambda tree: ""),
        ["tests/data/test_certified_data.py::test_images_with_the_names_and_sizes_of_others_are_not_certified"],
    ),
    Defect(
        "samples: a transfer validates on images of the base's training",
        attribute(ImageDataModule, "unseen_by", lambda self, description: True),
        ["tests/workflows/test_transfer.py::test_a_base_that_may_have_seen_the_validation_images_is_refused"],
    ),
    Defect(
        "rounding: E is not subtracted from the margin",
        edit(
            certify,
            "errors = (0.0, None) if rounding is None else (rounding.logits, rounding.pairwise)",
            "errors = (0.0, None)",
        ),
        [
            CERTIFICATES + "test_a_margin_within_the_rounding_certifies_nothing",
            CERTIFICATES + "test_rounding_within_the_naive_radius_turns_predictions_but_none_that_is_certified",
        ],
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
        attribute(SpatialMixing, "lipschitz_bound", edited(SpatialMixing.lipschitz_bound, "] * 2)", "])")),
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
        attribute(
            ScaledConv2d, "_frequencies", edited(ScaledConv2d._frequencies, 'self.padding_mode == "circular"', "True")
        ),
        ["tests/layers/test_lires.py::test_zero_padding_may_exceed_the_frequencies_of_its_own_size"],
    ),
    Defect(
        "pooling: the root of the sum of squares is missing",
        attribute(
            NormPool2d,
            "forward",
            edited(NormPool2d.forward, "torch.linalg.vector_norm(windows, dim=(3, 5))", "windows.square().sum((3, 5))"),
        ),
        ["tests/layers/test_pooling.py::test_the_bound_is_reached_and_kept"],
    ),
    Defect(
        "arithmetic: TF32 and autocast are not switched off",
        replace(ieee_arithmetic, _as_it_is),
        [
            "tests/certify/test_arithmetic.py::test_certify_runs_the_model_so",
            "tests/certify/test_arithmetic.py::test_autocast_is_off_where_the_model_runs",
        ],
    ),
    Defect(
        "attack: it never searches",
        attribute(PGD, "perturb", lambda self, model, images, prediction, epsilon: images),
        ["tests/certify/attacks/test_pgd.py::test_it_finds_the_nearest_boundary_of_a_linear_classifier"],
    ),
    Defect(
        "attack: it leaves the pixel box",
        attribute(geometry, "_clip", lambda images, offsets: offsets),
        ["tests/certify/attacks/test_pgd.py::test_it_stays_within_the_box"],
    ),
    Defect(
        "attack: distances are rounded down",
        edit(geometry.distances_up, "1 + (offsets", "1 - (offsets"),
        ["tests/certify/attacks/test_geometry.py::test_distances_are_never_below_the_exact_ones"],
    ),
    Defect(
        "adapters: a nonlinear bottleneck is merged, and so dropped",
        edit(attachment.merge, "if not update.merges", "if update.merges is None"),
        ["tests/structured/test_bottleneck.py::test_it_refuses_to_be_merged_and_certified"],
    ),
    Defect(
        "pretrained: a model card states the figures of an edited summary",
        edit(pretrained._check_summary, 'summary.get("sha256") != json_sha256(summary)', "False"),
        ["tests/models/test_pretrained.py::test_an_edited_summary_is_refused"],
    ),
    Defect(
        "pretrained: a model card states the figures of other weights",
        edit(pretrained._check_summary, "summary.get(name) != found", "False"),
        [
            "tests/models/test_pretrained.py::test_a_summary_of_other_weights_is_refused",
            "tests/models/test_pretrained.py::test_a_summary_of_another_network_with_the_same_weights_is_refused",
        ],
    ),
    Defect(
        "tensor files: damaged files are loaded",
        edit(tensor_file.parse_tensor_file, "if not intact:", "if False:"),
        [
            "tests/test_tensor_file.py::test_a_flipped_bit_is_noticed",
            "tests/models/test_safetensors.py::test_a_flipped_bit_is_noticed",
            "tests/structured/adapters/test_files.py::test_a_flipped_bit_is_noticed",
        ],
    ),
    Defect(
        "checkpoint: a safetensors file without a SHA-256 is read",
        edit(checkpoint._read_tensor_file, "if not content.has_sha256:", "if False:"),
        ["tests/models/test_safetensors.py::test_a_flipped_bit_is_noticed"],
    ),
    Defect(
        "report: a radius that equals the mark counts as certified",
        attribute(Run, "certified", edited(Run.certified, "self.steps > radius", "self.steps >= radius")),
        ["tests/certify/html/test_runs.py::test_a_radius_that_equals_the_mark_is_not_certified"],
    ),
    Defect(
        "report: the files of two certifications are mixed",
        edit(read_run, "key not in summary or summary[key] != value", "False"),
        ["tests/certify/html/test_runs.py::test_missing_edited_and_foreign_files_are_refused"],
    ),
    *(Defect(*row) for row in GROUP_AND_SHUFFLE),
    *(Defect(*row) for row in SPATIAL_LAYERS),
    *(Defect(*row) for row in OPERANDS),
    *(Defect(*row) for row in IDENTITY),
]
