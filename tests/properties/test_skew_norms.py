"""Bounds on the norm of skew convolutions: never below the singular values, for random and for adversarial filters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from lipnet.functional import reshaped_filter_bound, skew_filter, symbol_bound
from lipnet.functional.frequency import frequency_response
from tests.oracles import symbol_supremum
from tests.properties.cases import (
    BATCH,
    Record,
    Setting,
    ascended,
    examples,
    few_and_all,
    norms,
    same_convolution_matrix,
    skew_settings,
)

EXAMPLES = 150


@few_and_all
def test_both_bounds_are_at_least_the_norm(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * EXAMPLES)
    @given(skew_settings)
    def check(setting: Setting) -> None:
        nonlocal cases
        filters = setting.filters()
        exact = norms(torch.stack([same_convolution_matrix(weight, setting) for weight in filters]))
        for weight, norm in zip(filters, exact, strict=True):
            assert norm <= symbol_bound(weight, setting.groups), setting
            assert norm <= reshaped_filter_bound(weight, setting.groups), setting
            cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * EXAMPLES * BATCH


def responses(weight: Tensor, points: int) -> Tensor:
    """Return ||A(w)|| of each filter of a stack on a grid, (count, frequencies)."""
    each = [frequency_response(skew_filter(filter_), (points, points)).squeeze(2).flatten(0, 1) for filter_ in weight]
    return torch.linalg.matrix_norm(torch.stack(each), ord=2)


def above_the_grid(weight: Tensor) -> Tensor:
    """Return the ratio of a filter's norm to that on a coarse grid, as `symbol_bound` samples it."""
    return responses(weight, 25).amax(dim=1) / responses(weight, 6).amax(dim=1)


def below_a_reshaped_filter(weight: Tensor) -> Tensor:
    """Return the ratio of the norm to the bound by reshaped filters."""
    skew = torch.stack([skew_filter(filter_) for filter_ in weight])
    flat = torch.linalg.matrix_norm(skew.flatten(2), ord=2)
    blocked = torch.linalg.matrix_norm(skew.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2), ord=2)
    return responses(weight, 12).amax(dim=1) / torch.minimum(flat, blocked)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize(("ratio", "grid"), [(above_the_grid, 6), (below_a_reshaped_filter, 16)])
def test_filters_that_gradient_ascent_chose_do_not_exceed_the_bounds(
    ratio: object, grid: int, channels: int, record_property: Record
) -> None:
    filters = ascended((40, channels, channels, 3, 3), ratio, seed=channels)
    for weight in filters:
        skew = skew_filter(weight)
        supremum = symbol_supremum(skew, points=96)
        assert supremum <= symbol_bound(skew, grid=grid)
        assert supremum <= reshaped_filter_bound(skew)
    record_property("cases", len(filters))
    if ratio is above_the_grid:
        # The ascent found norms that the samples alone would miss.
        assert ratio(filters).max() > 1.01
