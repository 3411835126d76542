"""The step schedule against the learning rates that the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from lipnet.training import step_schedule


def make_optimizer(rate: float = 0.1) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def rates(total_epochs: int, **settings: object) -> list[float]:
    """The learning rate of each epoch."""
    optimizer = make_optimizer()
    schedule = step_schedule(optimizer, total_epochs=total_epochs, **settings)
    seen = []
    for _ in range(total_epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_papers_schedule() -> None:
    assert rates(200) == pytest.approx(100 * [0.1] + 50 * [0.01] + 50 * [0.001])


def test_fractions_and_factor_can_be_chosen() -> None:
    assert rates(10, at=(0.3, 0.9), gamma=0.5) == pytest.approx(3 * [0.1] + 6 * [0.05] + [0.025])


def test_fractions_are_rounded_to_whole_epochs() -> None:
    assert rates(7, at=[0.5]) == pytest.approx(4 * [0.1] + 3 * [0.01])


def test_no_fractions_leave_the_rate_constant() -> None:
    assert rates(3, at=()) == pytest.approx(3 * [0.1])


@pytest.mark.parametrize("total_epochs", [1, 2, 3])
def test_the_first_epoch_has_the_full_rate_however_short_the_training(total_epochs: int) -> None:
    assert rates(total_epochs)[0] == pytest.approx(0.1)


@pytest.mark.parametrize("at", [(0.75, 0.5), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (-0.5,), (1.5,), (float("nan"),)])
def test_fractions_that_make_no_sense_are_refused(at: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"increasing fractions in \(0, 1\), received \[") as error:
        step_schedule(make_optimizer(), total_epochs=10, at=at)
    assert str(list(at)) in str(error.value)
