"""Defects of certified radii: from logits, K and E to a radius, and the rounding that E covers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.certify import certify
from lipnet.certify.arithmetic import ieee_arithmetic
from lipnet.certify.rules import step_of
from lipnet.certify.trial_run import _run, check_images_apart
from lipnet.functional.margins import certified_radius, less_errors, round_down, top_margin
from lipnet.functional.pairwise import pairwise_certified_radius
from lipnet.functional.rounding_error import absolute_norm, accumulated
from lipnet.layers.explicit import explicit_products
from lipnet.metrics.functional import _certified_accuracy_update, _proven_radius
from tests.mutation.planting import Defect, edit, replace

MARGINS, PAIRWISE = "tests/functional/test_margins.py::", "tests/functional/test_pairwise.py::"
CERTIFICATES, LOGITS, CHECKS = (f"tests/certify/test_{name}.py::" for name in ("certificates", "bounds", "checks"))


@contextmanager
def _as_it_is(changed: torch.device | nn.Module) -> Any:
    yield


def _nearest(radius: float, decimals: int = 3) -> str:
    return f"{radius:.{decimals}f}"


def _to_nearest(logits: Tensor, lipschitz: float, error: float = 0.0) -> tuple[Tensor, Tensor]:
    largest, second = logits.double().topk(2, dim=1).values.unbind(dim=1)
    return logits.argmax(dim=1), ((largest - second) / (2**0.5 * lipschitz)).nan_to_num(nan=0.0)


DEFECTS = [
    Defect(
        "radius: the factor sqrt(2) is missing",
        edit(certified_radius, "math.sqrt(2) * float(lipschitz)", "float(lipschitz)"),
        [
            MARGINS + "test_radius_never_exceeds_the_exact_quotient",
            CERTIFICATES + "test_sqrt_two_is_reached_by_the_identity",
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
        "rounding: images that a model mixes are certified one by one",
        replace(check_images_apart, lambda model, image_shape: None),
        ["tests/certify/test_tampering.py::test_a_batch_that_counts_as_channels_is_refused"],
    ),
    Defect(
        "rounding: modules may mix the images of a batch",
        edit(_run, "if values.shape[:1] != (_BATCH,):", "if False:"),
        [CHECKS + "test_modules_that_mix_the_images_of_a_batch_are_refused"],
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
        "arithmetic: TF32 and autocast are not switched off",
        replace(ieee_arithmetic, _as_it_is),
        [
            "tests/certify/test_arithmetic.py::test_certify_runs_the_model_so",
            "tests/certify/test_arithmetic.py::test_autocast_is_off_where_the_model_runs",
        ],
    ),
]
