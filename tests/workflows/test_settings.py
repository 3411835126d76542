"""Settings that must be numbers: named before anything is built from them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from lipnet.workflows.settings import check_number, check_numbers
from lipnet.workflows.training import check_settings
from tests.config.test_experiments import EXPERIMENTS, configuration


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=abc", "seed must be an integer, got 'abc'"),
        ("seed=1.5", "seed must be an integer, got 1.5"),
        ("transfer=no", "transfer must be true or false, got 'no'"),
        ("bias_lr_factor=abc", "bias_lr_factor must be a number, got 'abc'"),
        ("certify.n_samples=abc", "certify.n_samples must be an integer or null, got 'abc'"),
        ("certify.batch_size=null", "certify.batch_size must be an integer, got null"),
        ("+certify.layers=no", "certify.layers must be true or false, got 'no'"),
        ("optimizer.lr=abc", "optimizer.lr must be a number, got 'abc'"),
        ("optimizer.momentum=[0.9]", r"optimizer.momentum must be a number, got \[0.9\]"),
        ("+optimizer.nesterov=1", "optimizer.nesterov must be true or false, got 1"),
        ("trainer.max_epochs=abc", "trainer.max_epochs must be an integer or null, got 'abc'"),
        ("data.batch_size=2.5", "data.batch_size must be an integer, got 2.5"),
        ("callbacks.last_checkpoint.every_minutes=abc", "every_minutes must be a number or null, got 'abc'"),
    ],
)
def test_the_error_names_the_setting(override: str, message: str) -> None:
    config = configuration("experiment=quickstart", override)
    with pytest.raises(ValueError, match=message):
        check_settings(config)


def test_a_cosine_schedule_needs_a_number_of_epochs() -> None:
    """torch accepts -1 epochs, and sets every second rate to 0."""
    config = configuration("experiment=quickstart", "scheduler=cosine", "trainer.max_epochs=-1")
    with pytest.raises(ValueError, match=r"scheduler\.T_max must be at least 1, got -1: set trainer\.max_epochs"):
        check_settings(config)
    check_settings(configuration("experiment=quickstart", "scheduler=constant", "trainer.max_epochs=-1"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_passes(experiment: str) -> None:
    check_settings(configuration(f"experiment={experiment}"))


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, float),
        (1, int | None),
        (None, int | None),
        (True, bool),
        (0.5, float | Tensor),
        ("DD:HH:MM:SS", str | int),
        ("a", Any),
        (["a"], list[int]),
    ],
)
def test_what_the_annotation_admits_passes(value: Any, annotation: Any) -> None:
    check_number("setting", value, annotation)


def annotated(one: int, other: float = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
    pass


def test_nested_targets_are_named_in_full() -> None:
    target = {"_target_": f"{__name__}.annotated", "one": 1, "other": None}
    check_numbers({"a": [target]})
    with pytest.raises(ValueError, match=r"a\[1\].one must be an integer, got 'x'"):
        check_numbers({"a": [target, {**target, "one": "x"}]})


def test_a_target_that_does_not_exist_is_left_to_hydra() -> None:
    check_numbers({"_target_": "nowhere.Class", "one": "x"})
