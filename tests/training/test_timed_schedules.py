"""Schedules over a budget of time: their shape, and the clock of the trainer over several starts."""

from __future__ import annotations

from contextlib import nullcontext
from math import cos, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn

from lipnet.training import LastCheckpoint, OneCycle
from tests.training.runs import Interrupted, best_checkpoint, fit, make_module


class Clock(Timer):
    """Timer that a test sets: every training batch takes this long."""

    def __init__(self, seconds: float, batch: float, used: float = 0.0) -> None:
        super().__init__(duration={"seconds": seconds})
        self.seconds, self.batch, self.used = seconds, batch, used

    def time_elapsed(self, stage: str = "train") -> float:
        return self.used

    def time_remaining(self, stage: str = "train") -> float | None:
        return self.seconds - self.used

    def on_train_batch_start(self, *_: Any) -> None:
        self.used += self.batch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.used = state_dict["time_elapsed"]["train"]


class Rates(Callback):
    """The rate that each step was made with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates_in_time(config: dict[str, Any], folder: Path, clock: Clock) -> list[float]:
    module, rates = make_module(config, scheduler=OneCycle(pct_start=0.25, over="time")), Rates()
    fit(config, folder, module=module, max_epochs=-1, callbacks=[best_checkpoint(folder), clock, rates])
    return rates.seen


def test_the_rate_follows_the_time_and_the_training_ends_with_it(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    seen = rates_in_time(tiny_config, tmp_path, Clock(seconds=30, batch=1))
    assert seen == pytest.approx([0.1 * factor(second / 30, pct_start=0.25) for second in range(30)])
    assert max(seen) == pytest.approx(0.1, rel=0.01)
    assert seen[-1] < 0.001


@pytest.mark.slow
def test_a_slow_machine_has_the_same_schedule_in_fewer_steps(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    fast = rates_in_time(tiny_config, tmp_path / "fast", Clock(seconds=30, batch=1))
    slow = rates_in_time(tiny_config, tmp_path / "slow", Clock(seconds=30, batch=3))
    assert slow == pytest.approx(fast[::3])


def test_the_last_weights_are_validated(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, scheduler=OneCycle(over="time"))
    clock = Clock(seconds=10, batch=1)
    trainer = fit(tiny_config, tmp_path, module=module, max_epochs=-1, callbacks=[best_checkpoint(tmp_path), clock])
    assert trainer.global_step == 10, "in the middle of an epoch"
    assert "val/certified_36_255" in trainer.callback_metrics


def test_a_resumed_training_has_what_was_left_of_the_time(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    def start(ckpt_path: Path | None) -> Trainer:
        module = make_module(tiny_config, scheduler=OneCycle(pct_start=0.25, over="time"))
        callbacks = [best_checkpoint(tmp_path), LastCheckpoint(tmp_path / "latest.ckpt")]
        limits = {"max_epochs": -1, "max_time": "00:00:00:01"}
        return fit(tiny_config, tmp_path, ckpt_path, module=module, callbacks=callbacks, **limits)

    first = start(None)
    (timer,) = (each for each in first.callbacks if isinstance(each, Timer))
    assert timer.time_elapsed() >= 1
    again = start(tmp_path / "latest.ckpt")
    assert again.global_step == first.global_step, "nothing was left"
    assert again.optimizers[0].param_groups[0]["lr"] == first.optimizers[0].param_groups[0]["lr"]


class KillInLastValidation(Callback):
    """Ends a training without notice in the validation after its time is up."""

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.should_stop:
            raise Interrupted


@pytest.mark.parametrize(("every", "steps"), [(1, 11), (2, 10)])
def test_a_last_validation_that_was_killed_is_made_up_for(
    tmp_path: Path, tiny_config: dict[str, Any], every: int, steps: int
) -> None:
    """Ten batches use up the time, and one more leads to the validation. The first epoch of two is not validated."""
    path = tmp_path / "latest.ckpt"

    def start(ckpt_path: Path | None, *more: Callback) -> Trainer:
        module = make_module(tiny_config, scheduler=OneCycle(over="time"))
        callbacks = [Clock(seconds=10, batch=1), best_checkpoint(tmp_path), LastCheckpoint(path), *more]
        limits = {"max_epochs": -1, "check_val_every_n_epoch": every}
        return fit(tiny_config, tmp_path, ckpt_path, module=module, callbacks=callbacks, **limits)

    with pytest.raises(Interrupted) if every == 1 else nullcontext():
        start(None, KillInLastValidation())
    resumed = start(path)
    assert resumed.global_step == steps
    assert ("val/certified_36_255" in resumed.callback_metrics) == (every == 1)
    assert start(path).global_step == steps, "nothing is missing any more"


def test_a_training_without_a_budget_of_time_is_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, scheduler=OneCycle(over="time"))
    with pytest.raises(ValueError, match=r"needs its budget: set trainer\.max_time"):
        fit(tiny_config, tmp_path, module=module)


@pytest.mark.slow
def test_it_is_the_one_cycle_of_many_steps() -> None:
    steps, done = 10_001, [0.0]
    settings = {"pct_start": 0.3, "div_factor": 20.0, "final_div_factor": 50.0}
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9) for _ in range(2)]
    by_step = OneCycle(**settings, momentum=[0.8, 0.9])(optimizers[0], steps)
    by_time = OneCycle(**settings, momentum=[0.8, 0.9], over="time")(optimizers[1], lambda: done[0])
    for step in range(steps - 1):
        if step % 1000 == 0:
            assert by_time.get_last_lr()[0] == pytest.approx(by_step.get_last_lr()[0], abs=1e-3)
            momenta = [optimizer.param_groups[0]["momentum"] for optimizer in optimizers]
            assert momenta[0] == pytest.approx(momenta[1], abs=1e-3)
        for optimizer in optimizers:
            optimizer.step()
        done[0] = (step + 1) / (steps - 1)
        by_step.step()
        by_time.step()


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.1, 0.3, 0.7, 1.0, 1.1])
def test_the_rate_at_a_fraction_of_the_time(fraction: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    OneCycle(over="time")(optimizer, lambda: fraction)
    expected = 0.1 * factor(min(1.0, max(0.0, fraction)), pct_start=0.3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-5)


def test_its_state_is_plain_numbers(tmp_path: Path) -> None:
    """A checkpoint is read with ``weights_only=True``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    state = OneCycle(over="time")(optimizer, lambda: 0.5).state_dict()
    torch.save(state, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == state


def test_it_follows_steps_or_the_time() -> None:
    with pytest.raises(ValueError, match="over must be 'steps' or 'time', got 'epochs'"):
        OneCycle(over="epochs")


def factor(fraction: float, pct_start: float, div_factor: float = 25.0, final_div_factor: float = 1e4) -> float:
    """The rate as a share of its peak: half cosines from 1/d to 1 and from 1 to 1/(d e)."""
    start, end = 1 / div_factor, 1 / (div_factor * final_div_factor)
    if fraction < pct_start:
        return 1 + (start - 1) * (1 + cos(pi * fraction / pct_start)) / 2
    return end + (1 - end) * (1 + cos(pi * (fraction - pct_start) / (1 - pct_start))) / 2
