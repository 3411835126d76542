"""The schedules against the learning rates that their formulas state."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from lipnet.training import CosineWithWarmup, OneCycle, PerStepSchedule, step_schedule


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
    with pytest.raises(ValueError, match=r"increasing fractions in \(0, 1\), got \[") as error:
        step_schedule(make_optimizer(), total_epochs=10, at=at)
    assert str(list(at)) in str(error.value)


@pytest.mark.parametrize("total_epochs", [0, -1])
def test_an_unknown_length_is_refused(total_epochs: int) -> None:
    with pytest.raises(ValueError, match=rf"total_epochs must be at least 1, got {total_epochs}: set trainer\.max_ep"):
        step_schedule(make_optimizer(), total_epochs=total_epochs)


def groups_of(schedule: PerStepSchedule, total_steps: int, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of the first group at each step; the schedule is stepped once more than there are steps left."""
    made, seen = schedule(optimizer, total_steps), []
    for _ in range(total_steps):
        seen.append(dict(optimizer.param_groups[0]))
        optimizer.step()
        made.step()
    return seen


def rates_of(schedule: PerStepSchedule, total_steps: int) -> list[float]:
    return [group["lr"] for group in groups_of(schedule, total_steps, make_optimizer())]


@pytest.mark.parametrize(("warmup", "final", "steps"), [(0.05, 0.0, 100), (0.3, 0.1, 10), (0.0, 0.5, 7), (0.5, 1.0, 9)])
def test_cosine_with_warmup(warmup: float, final: float, steps: int) -> None:
    rising = round(warmup * steps)
    expected = [0.1 * (step + 1) / rising for step in range(rising)]
    for step in range(rising, steps):
        expected.append(0.1 * (final + (1 - final) / 2 * (1 + cos(pi * (step - rising) / (steps - rising)))))
    computed = rates_of(CosineWithWarmup(warmup, final), steps)
    assert computed == pytest.approx(expected, rel=1e-12)
    assert max(computed) == pytest.approx(0.1)
    assert computed[0] > 0


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.9])
def test_the_shortest_trainings_have_a_rate(steps: int, warmup: float) -> None:
    assert max(rates_of(CosineWithWarmup(warmup), steps)) == pytest.approx(0.1)


def half_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + cos(pi * fraction))


@pytest.mark.parametrize(("pct_start", "initial", "final", "steps"), [(0.3, 25.0, 1e4, 100), (0.5, 10.0, 1.0, 20)])
def test_one_cycle(pct_start: float, initial: float, final: float, steps: int) -> None:
    peak, expected = pct_start * steps - 1, []
    for step in range(steps):
        if step <= peak:
            expected.append(half_cosine(0.1 / initial, 0.1, step / peak))
        else:
            expected.append(half_cosine(0.1, 0.1 / initial / final, (step - peak) / (steps - 1 - peak)))
    assert rates_of(OneCycle(pct_start, initial, final), steps) == pytest.approx(expected, rel=1e-9)


def test_one_cycle_of_the_momentum() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    groups = groups_of(OneCycle(pct_start=0.5, momentum=[0.85, 0.95]), 20, optimizer)
    momenta = [group["momentum"] for group in groups]
    assert momenta[0] == pytest.approx(0.95)
    assert momenta[9] == pytest.approx(0.85)
    assert momenta[-1] == pytest.approx(0.95)
    assert momenta[4] == pytest.approx(half_cosine(0.95, 0.85, 4 / 9))


def test_one_cycle_of_the_first_beta() -> None:
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert groups_of(OneCycle(momentum=[0.8, 0.9]), 10, optimizer)[0]["betas"] == (pytest.approx(0.9), 0.999)


def test_one_cycle_leaves_the_momentum() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.7)
    assert {group["momentum"] for group in groups_of(OneCycle(), 10, optimizer)} == {0.7}


def test_each_group_has_its_own_peak() -> None:
    for schedule in (OneCycle(pct_start=0.5), CosineWithWarmup(warmup=0.5)):
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.02)]
        optimizer = SGD(groups, lr=1.0)
        made, seen = schedule(optimizer, 10), []
        for _ in range(10):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            made.step()
        peaks = [max(rate) for rate in zip(*seen, strict=True)]
        assert peaks == pytest.approx([0.1, 0.02])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineWithWarmup(warmup=1.0), r"warmup must be a fraction in \[0, 1\), got 1\.0"),
        (lambda: CosineWithWarmup(warmup=-0.1), r"warmup must be a fraction in \[0, 1\), got -0\.1"),
        (lambda: CosineWithWarmup(final=1.5), r"final must be a fraction in \[0, 1\], got 1\.5"),
        (lambda: OneCycle(pct_start=0.0), r"pct_start must be a fraction in \(0, 1\), got 0\.0"),
        (lambda: OneCycle(div_factor=0.5), r"div_factor must be at least 1, got 0\.5"),
        (lambda: OneCycle(final_div_factor=float("nan")), r"final_div_factor must be at least 1, got nan"),
        (lambda: OneCycle(momentum=[0.9]), r"momentum must be a smallest and a largest value .*got \[0\.9\]"),
        (lambda: OneCycle(momentum=[0.9, 0.8]), r"in \[0, 1\), got \[0\.9, 0\.8\]"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_optimizer_without_momentum_has_none_to_schedule() -> None:
    optimizer = Adagrad([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="must support momentum"):
        OneCycle(momentum=[0.8, 0.9])(optimizer, 10)


def test_one_cycle_over_the_steps_is_torchs() -> None:
    optimizer = make_optimizer()
    assert type(OneCycle()(optimizer, 10)) is torch.optim.lr_scheduler.OneCycleLR
