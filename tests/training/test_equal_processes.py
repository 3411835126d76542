"""Processes of a training with other settings or weights than the first are refused, in all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from lipnet.training.equal_processes import EqualProcesses, check_equal


def trainer_of(first: Any, decision: bool, world_size: int = 2) -> Any:
    """A trainer whose first process has these settings, and whose processes agree or not."""
    strategy = SimpleNamespace(broadcast=lambda value: first, reduce_boolean_decision=lambda same: same and decision)
    return SimpleNamespace(world_size=world_size, strategy=strategy)


def test_a_process_that_differs_names_the_settings() -> None:
    trainer = trainer_of({"lr": 0.1, "seed": 0}, decision=True)
    check_equal(trainer, {"lr": 0.1, "seed": 0})
    with pytest.raises(ValueError, match=r"got lr: 0\.1 in the first, 0\.2 here; loss: None in the first, emma here$"):
        check_equal(trainer, {"lr": 0.2, "seed": 0, "loss": "emma"})


def test_processes_that_agree_with_the_first_end_with_the_one_that_does_not() -> None:
    with pytest.raises(ValueError, match="got others in another one"):
        check_equal(trainer_of({"lr": 0.1}, decision=False), {"lr": 0.1})


def test_a_single_process_is_not_compared() -> None:
    check_equal(trainer_of({"lr": 0.1}, decision=False, world_size=1), {"lr": 0.2})


def test_other_weights_are_refused_before_the_first_step() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    received: list[Any] = []
    trainer = trainer_of(None, decision=True)
    trainer.strategy.broadcast = lambda value: received.append(value) or received[0]
    callback: Any = EqualProcesses(None)
    callback.on_train_start(trainer, one)
    callback.on_train_start(trainer, one)
    with pytest.raises(ValueError, match="the same settings and weights, got SHA-256 of the weights: "):
        callback.on_train_start(trainer, other)
