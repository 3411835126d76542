"""Tests of the checks that data modules share."""

from typing import Any

import numpy as np
import pytest

from lipnet.data.checks import MAXIMUM_SEED, check_at_least, check_fraction, check_seed


@pytest.mark.parametrize("value", ["0.5", None, float("nan"), 0, 1.0, -0.1])
def test_only_numbers_between_0_and_1_are_fractions(value: Any) -> None:
    with pytest.raises(ValueError, match=f"part must lie strictly between 0 and 1, got {value}"):
        check_fraction("part", value)


@pytest.mark.parametrize("value", [-1, MAXIMUM_SEED + 1, 0.0, "1"])
def test_only_integers_of_32_bits_are_seeds(value: Any) -> None:
    with pytest.raises(ValueError, match=f"seed must be an integer from 0 to {MAXIMUM_SEED}, got {value!r}"):
        check_seed("seed", value)


def test_the_first_value_below_the_least_is_named() -> None:
    with pytest.raises(ValueError, match="second must be at least 1, got 0"):
        check_at_least(1, first=1, second=0, third=-1)


def test_limits_are_accepted() -> None:
    check_seed("seed", 0)
    check_seed("seed", MAXIMUM_SEED)
    check_fraction("part", np.float32(0.5))  # type: ignore[arg-type]
    check_at_least(0, count=0)
