"""Schedules over a budget of time: their shape, and the clock of the trainer over several starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn

from lipnet.training import LastCheckpoint, OneCycle, TimedOneCycle
from tests.training.runs import best_checkpoint, fit, make_module


class Clock(Timer):
    """A timer that a test sets: every training batch takes as long as it says."""

    def __init__(self, seconds: float, batch: float, used: float = 0.0) -> None:
        super().__init__(duration={"seconds": seconds})
        self.seconds, self.batch, self.used = seconds, batch, used

    def time_elapsed(self, stage: str = "train") -> float:
        return self.used

    def time_remaining(self, stage: str = "train") -> float | None:
        return self.seconds - self.used

    def on_train_batch_start(self, *_: Any) -> None:
        self.used += self.batch


class Rates(Callback):
    """The rate that each step was made with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_in_time(config: dict[str, Any], folder: Path, clock: Clock) -> list[float]:
    module, rates = make_module(config, scheduler=TimedOneCycle(rise=0.25)), Rates()
    fit(config, folder, module=module, max_epochs=-1, callbacks=[best_checkpoint(folder), clock, rates])
    return rates.seen


def test_the_rate_follows_the_time_and_the_training_ends_with_it(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    seen = rates_in_time(tiny_config, tmp_path, Clock(seconds=30, batch=1))
    schedule = TimedOneCycle(rise=0.25)
    assert seen == pytest.approx([0.1 * schedule.factor(second / 30) for second in range(30)])
    assert max(seen) == pytest.approx(0.1, rel=0.01)
    assert seen[-1] < 0.001


def test_a_slow_machine_has_the_same_schedule_in_fewer_steps(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    fast = rates_in_time(tiny_config, tmp_path / "fast", Clock(seconds=30, batch=1))
    slow = rates_in_time(tiny_config, tmp_path / "slow", Clock(seconds=30, batch=3))
    assert slow == pytest.approx(fast[::3])


def test_the_last_weights_are_validated(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, scheduler=TimedOneCycle())
    clock = Clock(seconds=10, batch=1)
    trainer = fit(tiny_config, tmp_path, module=module, max_epochs=-1, callbacks=[best_checkpoint(tmp_path), clock])
    assert trainer.global_step == 10, "in the middle of an epoch"
    assert "val/certified_36_255" in trainer.callback_metrics


def test_a_resumed_training_has_what_was_left_of_the_time(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    def start(ckpt_path: Path | None) -> Trainer:
        module = make_module(tiny_config, scheduler=TimedOneCycle(rise=0.25))
        callbacks = [best_checkpoint(tmp_path), LastCheckpoint(tmp_path / "latest.ckpt")]
        limits = {"max_epochs": -1, "max_time": "00:00:00:01"}
        return fit(tiny_config, tmp_path, ckpt_path, module=module, callbacks=callbacks, **limits)

    first = start(None)
    (timer,) = (each for each in first.callbacks if isinstance(each, Timer))
    assert timer.time_elapsed() >= 1
    again = start(tmp_path / "latest.ckpt")
    assert again.global_step == first.global_step, "nothing was left"
    assert again.optimizers[0].param_groups[0]["lr"] == first.optimizers[0].param_groups[0]["lr"]


def test_a_training_without_a_budget_of_time_is_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, scheduler=TimedOneCycle())
    with pytest.raises(ValueError, match=r"needs its budget: set trainer\.max_time"):
        fit(tiny_config, tmp_path, module=module)


def test_it_is_the_one_cycle_of_many_steps() -> None:
    steps = 10_001
    settings = {"rise": 0.3, "initial_divisor": 20.0, "final_divisor": 50.0}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, timed = OneCycle(**settings)(optimizer, steps), TimedOneCycle(**settings)
    for step in range(steps):
        if step % 1000 == 0:
            assert schedule.get_last_lr()[0] == pytest.approx(timed.factor(step / (steps - 1)), abs=1e-3)
        optimizer.step()
        if step < steps - 1:
            schedule.step()


@pytest.mark.parametrize("rise", [0.0, 1.0, -0.5, float("nan")])
def test_a_rise_that_is_no_fraction_is_refused(rise: float) -> None:
    with pytest.raises(ValueError, match=r"rise must be a fraction in \(0, 1\), got"):
        TimedOneCycle(rise=rise)


@pytest.mark.parametrize("name", ["initial_divisor", "final_divisor"])
def test_divisors_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the divisors must be at least 1, got"):
        TimedOneCycle(**{name: 0.5})
