"""The checkpoint by the clock: its times, the end of a run by the clock, and the exit status."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lipnet.data import DigitsDataModule
from lipnet.training import LastCheckpoint, TimeIsUp
from lipnet.training import last_checkpoint as module_under_test
from tests.training.runs import Interrupted, KillAfter, assert_same_training, best_checkpoint, fit


class Clock:
    """A clock that stands still until it is moved."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class EveryStepTakes(Callback):
    """Callback that advances the clock with every batch, and records the step in the file."""

    def __init__(self, clock: Clock, seconds: float, path: Path) -> None:
        self.clock, self.seconds, self.path = clock, seconds, path
        self.steps: list[int | None] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.steps.append(step_of(self.path))
        self.clock.seconds += self.seconds


def step_of(path: Path) -> int | None:
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module_under_test, "monotonic", clock)
    return clock


def make_data() -> DigitsDataModule:
    return DigitsDataModule(batch_size=64, eval_batch_size=60)


def test_it_is_written_by_the_clock_and_at_every_end_of_an_epoch(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    """Steps of 25 seconds, written every minute: after steps 3 and 6 of 8, and at the ends, 8 and 16."""
    path = tmp_path / "latest.ckpt"
    takes = EveryStepTakes(clock, 25.0, path)
    callbacks = [takes, LastCheckpoint(path, every_minutes=1)]
    fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, limit_train_batches=8)
    nothing = [None, None, None]
    assert takes.steps == [*nothing, 3, 3, 3, 6, 6, 8, 8, 8, 11, 11, 11, 14, 14]
    assert step_of(path) == 16


def test_metrics_of_the_steps_before_it_are_on_the_disk(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    """Otherwise a kill would lose them: the resumed run logs later steps alone."""
    table = tmp_path / "metrics.csv"
    logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1000)
    rows: list[int] = []

    class Reading(Callback):
        def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
            lines = csv.DictReader(table.read_text().splitlines())
            rows.append(len([line for line in lines if line["lr-SGD"]]))

    callbacks = [LearningRateMonitor("step"), Reading(), EveryStepTakes(clock, 25.0, tmp_path / "latest.ckpt")]
    callbacks.append(LastCheckpoint(tmp_path / "latest.ckpt", every_minutes=1))
    settings = {"limit_train_batches": 8, "max_epochs": 1, "log_every_n_steps": 1}
    fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, logger=logger, **settings)
    assert rows == [3, 6, 8]


def test_without_an_interval_it_is_written_at_the_ends_alone(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    path = tmp_path / "latest.ckpt"
    takes = EveryStepTakes(clock, 1e6, path)
    callbacks = [takes, LastCheckpoint(path, every_minutes=None)]
    fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, limit_train_batches=3)
    assert takes.steps == [None, None, None, 3, 3, 3]
    assert step_of(path) == 6


@pytest.mark.slow
def test_a_run_that_is_cut_again_and_again_is_the_whole_one(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    """Nine minutes a start, two minutes a step: the fifth step exceeds them."""
    path = tmp_path / "latest.ckpt"
    whole = fit(tiny_config, tmp_path / "whole", data=make_data(), limit_train_batches=8)

    def start() -> Trainer:
        last = LastCheckpoint(path, stop_after_minutes=9)
        callbacks = [EveryStepTakes(clock, 120.0, path), best_checkpoint(tmp_path), last]
        ckpt_path = path if path.exists() else None
        return fit(tiny_config, tmp_path, ckpt_path, data=make_data(), callbacks=callbacks, limit_train_batches=8)

    for steps in (5, 10, 15):
        with pytest.raises(TimeIsUp) as end:
            start()
        assert end.value.code == 75
        assert step_of(path) == steps
    assert_same_training(whole, start())


def cut_again_and_again(
    config: dict[str, Any], folder: Path, clock: Clock, minutes: float, **settings: Any
) -> tuple[list[int | None], Trainer]:
    """Train with steps of a minute in starts of so many minutes; return the step of each cut, and the last start."""
    path, steps = folder / "latest.ckpt", []
    while True:
        last = LastCheckpoint(path, every_minutes=None, stop_after_minutes=minutes)
        callbacks = [EveryStepTakes(clock, 60.0, path), best_checkpoint(folder, save_top_k=-1), last]
        ckpt_path = path if path.exists() else None
        try:
            return steps, fit(config, folder, ckpt_path, data=make_data(), callbacks=callbacks, **settings)
        except TimeIsUp:
            steps.append(step_of(path))


def assert_same_choice(one: Trainer, other: Trainer) -> None:
    """The callbacks that choose the best checkpoint have seen the same scores."""
    scores = [[*map(float, trainer.checkpoint_callback.best_k_models.values())] for trainer in (one, other)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("settings", "minutes", "steps"),
    [
        pytest.param({"limit_train_batches": 1, "max_epochs": 3}, 1, [1, 2], id="one batch an epoch"),
        pytest.param({"limit_train_batches": 4, "max_epochs": 1, "val_check_interval": 1}, 2, [2], id="validations"),
        pytest.param(
            {"limit_train_batches": 8, "max_epochs": 1, "val_check_interval": 4, "accumulate_grad_batches": 4},
            4,
            [1],
            id="validations and accumulation",
        ),
    ],
)
def test_the_time_ends_after_the_validation_or_the_epoch_that_follows_a_step(
    tmp_path: Path,
    tiny_config: dict[str, Any],
    clock: Clock,
    settings: dict[str, Any],
    minutes: float,
    steps: list[int],
) -> None:
    """The last start completes the training, although its time is up in the last step."""
    settings = {**settings, "limit_val_batches": 1}
    cuts, resumed = cut_again_and_again(tiny_config, tmp_path / "cut", clock, minutes, **settings)
    assert cuts == steps
    callbacks = [best_checkpoint(tmp_path / "whole", save_top_k=-1)]
    whole = fit(tiny_config, tmp_path / "whole", data=make_data(), callbacks=callbacks, **settings)
    assert_same_training(whole, resumed)
    assert_same_choice(whole, resumed)


def test_figures_of_an_epoch_are_logged_before_the_time_ends(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    settings = {"limit_train_batches": 2, "logger": CSVLogger(tmp_path, name="", version="")}
    cuts, _ = cut_again_and_again(tiny_config, tmp_path, clock, 2, limit_val_batches=1, **settings)
    assert cuts == [2]
    rows = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows if row["train/accuracy"]] == ["0", "1"]


def test_figures_of_every_step_are_logged_before_the_time_ends(
    tmp_path: Path, tiny_config: dict[str, Any], clock: Clock
) -> None:
    logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1000)
    settings = {"limit_train_batches": 5, "max_epochs": 1, "log_every_n_steps": 1, "logger": logger}
    cuts, _ = cut_again_and_again(tiny_config, tmp_path, clock, 2, **settings)
    assert cuts == [2, 4]
    rows = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1", "2", "3", "4"]


def test_a_state_after_a_validation_is_kept_by_the_clock(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """A validation follows each step, and the process is killed in the middle of the epoch."""
    path = tmp_path / "cut" / "latest.ckpt"
    settings = {"limit_train_batches": 5, "max_epochs": 1, "limit_val_batches": 1, "val_check_interval": 1}

    def start(name: str, ckpt_path: Path | None = None, *more: Callback) -> Trainer:
        keeper = best_checkpoint(tmp_path / name, save_top_k=-1)
        callbacks = [keeper, LastCheckpoint(tmp_path / name / "latest.ckpt", every_minutes=1e-9), *more]
        return fit(tiny_config, tmp_path / name, ckpt_path, data=make_data(), callbacks=callbacks, **settings)

    with pytest.raises(Interrupted):
        start("cut", None, KillAfter(3))
    assert step_of(path) == 3
    whole, resumed = start("whole"), start("cut", path)
    assert_same_training(whole, resumed)
    assert_same_choice(whole, resumed)


class Terminating(Callback):
    """Callback that sends SIGTERM to its process once, as a scheduler does: in a hook, at a step."""

    def __init__(self, hook: str = "on_train_batch_start", step: int = 5) -> None:
        setattr(self, hook, self._terminate)
        self.step, self.sent = step, False

    def _terminate(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


def assert_cut_by_sigterm(
    config: dict[str, Any], folder: Path, hook: str, step: int, saved: int, **settings: Any
) -> None:
    """A training that gets SIGTERM keeps a step, exits with status 75, and resumes to the training in one go."""
    path = folder / "cut" / "latest.ckpt"

    def start(name: str, ckpt_path: Path | None = None, *more: Callback) -> Trainer:
        callbacks = [best_checkpoint(folder / name), LastCheckpoint(folder / name / "latest.ckpt"), *more]
        return fit(config, folder / name, ckpt_path, data=make_data(), callbacks=callbacks, **settings)

    with pytest.raises(SIGTERMException) as end:
        start("cut", None, Terminating(hook, step))
    assert end.value.code == 75
    assert step_of(path) == saved
    whole, resumed = start("whole"), start("cut", path)
    assert_same_training(whole, resumed)
    assert whole.checkpoint_callback.best_model_score == resumed.checkpoint_callback.best_model_score
    counts = [trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.ready for trainer in (whole, resumed)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 1, 2),
        ("on_validation_batch_end", 4, 4),
        pytest.param("on_train_batch_start", 3, 4, marks=pytest.mark.slow),
        pytest.param("on_train_start", 0, 1, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_is_told_to_end_keeps_its_state(
    tmp_path: Path, tiny_config: dict[str, Any], hook: str, step: int, saved: int
) -> None:
    """A validation of three batches follows each epoch of four steps. It is complete before the program ends."""
    assert_cut_by_sigterm(tiny_config, tmp_path, hook, step, saved, limit_train_batches=4)


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "step", "saved"), [(3, 3, 3), (1, 2, 2)])
def test_a_validation_within_an_epoch_is_completed_first(
    tmp_path: Path, tiny_config: dict[str, Any], interval: int, step: int, saved: int
) -> None:
    """Validations follow batches 3 and 6 of 8, or every batch."""
    settings = {"limit_train_batches": 8, "val_check_interval": interval}
    assert_cut_by_sigterm(tiny_config, tmp_path, "on_validation_batch_end", step, saved, **settings)


def test_accumulated_gradients_are_not_lost_at_the_end(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """A step follows every second batch: SIGTERM after the first batch waits for the second one."""
    settings = {"limit_train_batches": 8, "accumulate_grad_batches": 2}
    assert_cut_by_sigterm(tiny_config, tmp_path, "on_train_batch_end", 0, 1, **settings)


@pytest.mark.parametrize(
    "settings", [{"callbacks": []}, {"fast_dev_run": 3}], ids=["no callback", "a fast development run"]
)
def test_a_process_that_is_told_to_end_and_keeps_no_state_says_so(
    tmp_path: Path, tiny_config: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Lightning's own exception has exit status 0."""
    kept = [] if "callbacks" in settings else [LastCheckpoint(tmp_path / "latest.ckpt")]
    settings = {**settings, "callbacks": [*kept, Terminating(step=1)]}
    with pytest.raises(SIGTERMException) as end:
        fit(tiny_config, tmp_path, data=make_data(), limit_train_batches=4, **settings)
    assert end.value.code == 143


class Stopping(Callback):
    """Callback that ends the training after step 5, as a time budget does."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 5


@pytest.mark.parametrize(("hook", "step"), [("on_train_batch_start", 4), ("on_train_end", 5)])
def test_a_training_that_ends_is_validated_before_it_answers(
    tmp_path: Path, tiny_config: dict[str, Any], hook: str, step: int
) -> None:
    """It ends within an epoch. SIGTERM is answered after the validation, so that this program does not certify."""
    path, keeper = tmp_path / "latest.ckpt", best_checkpoint(tmp_path)
    callbacks = [Stopping(), keeper, LastCheckpoint(path), Terminating(hook, step)]
    with pytest.raises(SIGTERMException) as end:
        fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, limit_train_batches=8)
    assert end.value.code == 75
    assert step_of(path) == 5
    assert keeper.best_model_score is not None


def test_a_plain_loader_cannot_be_cut(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    class PlainDigits(DigitsDataModule):
        def train_dataloader(self) -> Any:
            loader = super().train_dataloader()
            return torch.utils.data.DataLoader(loader.dataset, batch_size=64, sampler=loader.sampler)

    path = tmp_path / "latest.ckpt"
    with pytest.raises(ValueError, match=r"stop_after_minutes needs a training loader .* got a DataLoader"):
        fit(tiny_config, tmp_path, data=PlainDigits(), callbacks=[LastCheckpoint(path, stop_after_minutes=9)])
    callbacks = [LastCheckpoint(path, every_minutes=1e-9), KillAfter(5)]
    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path, data=PlainDigits(), callbacks=callbacks, limit_train_batches=4)
    assert step_of(path) == 4, "the end of an epoch, from which any loader goes on"


def test_a_budget_of_the_trainer_leaves_a_state_within_the_epoch(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Trainer(max_time) ends an epoch early and calls it an epoch; the state is that of its last step."""
    path = tmp_path / "latest.ckpt"
    callbacks = [Stopping(), best_checkpoint(tmp_path), LastCheckpoint(path)]
    fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, limit_train_batches=8)
    assert step_of(path) == 5
    whole = fit(tiny_config, tmp_path / "whole", data=make_data(), limit_train_batches=8)
    resumed = fit(tiny_config, tmp_path, path, data=make_data(), limit_train_batches=8)
    assert_same_training(whole, resumed)


class AlwaysStopping(Callback):
    """Callback that asks for the end of the training in every batch, as a time budget does that is used up."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize("least", [{"min_epochs": 2}, {"min_steps": 8}], ids=str)
def test_a_training_that_has_to_go_on_is_not_ending(
    tmp_path: Path, tiny_config: dict[str, Any], least: dict[str, int]
) -> None:
    """It answers SIGTERM after the step, and is only written when it is time."""
    path, clock = tmp_path / "latest.ckpt", Clock()
    settings = {"limit_train_batches": 4, "limit_val_batches": 1, "max_epochs": 3, **least}

    def start(*more: Callback) -> list[int | None]:
        takes = EveryStepTakes(clock, 0.0, path)
        callbacks = [AlwaysStopping(), takes, LastCheckpoint(path), *more]
        fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, **settings)
        return takes.steps

    with pytest.raises(SIGTERMException):
        start(Terminating(step=1))
    assert step_of(path) == 2
    path.unlink()
    nothing = [None, None, None, None]
    assert start() == [*nothing, 4, 4, 4, 4]
    assert step_of(path) == 8


class OutOfTime(Callback):
    """Callback that ends the training with the fifth batch, once, as a used-up time budget does."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 4:
            trainer.should_stop = True


@pytest.mark.parametrize("validated", [True, False])
def test_a_training_whose_time_ends_between_two_steps_completes_the_step(
    tmp_path: Path, tiny_config: dict[str, Any], validated: bool
) -> None:
    """Steps follow batches 2, 4, 6 and 8. The sixth one is trained, and the state after it is kept."""
    path = tmp_path / "latest.ckpt"
    settings = {"limit_train_batches": 8, "limit_val_batches": 3 * validated, "accumulate_grad_batches": 2}

    def start(name: str, ckpt_path: Path | None = None, *more: Callback) -> Trainer:
        return fit(tiny_config, tmp_path / name, ckpt_path, data=make_data(), callbacks=[*more], **settings)

    start("cut", None, OutOfTime(), LastCheckpoint(path))
    assert step_of(path) == 3
    assert_same_training(start("whole"), start("cut", path))


def test_a_fast_development_run_writes_nothing(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    fit(tiny_config, tmp_path, data=make_data(), callbacks=[LastCheckpoint(tmp_path / "latest.ckpt")], fast_dev_run=2)
    assert list(tmp_path.iterdir()) == []


def test_the_last_steps_of_a_training_by_steps_are_kept(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    path = tmp_path / "latest.ckpt"
    fit(tiny_config, tmp_path, data=make_data(), callbacks=[LastCheckpoint(path)], max_epochs=-1, max_steps=5)
    assert step_of(path) == 5


@pytest.mark.parametrize("settings", [{"check_val_every_n_epoch": 2}, {"limit_val_batches": 0}], ids=str)
def test_the_last_step_is_kept_where_a_validation_is_left_out(
    tmp_path: Path, tiny_config: dict[str, Any], settings: dict[str, Any]
) -> None:
    """The last of four steps is in the middle of the epoch, where other epochs or other settings validate."""
    path = tmp_path / "latest.ckpt"
    lengths = {"limit_train_batches": 8, "val_check_interval": 4, "max_epochs": -1, "max_steps": 4}
    fit(tiny_config, tmp_path, data=make_data(), callbacks=[LastCheckpoint(path)], **lengths, **settings)
    assert step_of(path) == 4


@pytest.mark.slow
def test_a_validation_after_the_last_step_is_kept_and_not_repeated(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Four of eight steps, then a validation: the training resumes with the fifth step."""
    path, keeper = tmp_path / "latest.ckpt", best_checkpoint(tmp_path)
    options: dict[str, Any] = {"max_epochs": -1, "val_check_interval": 4}
    callbacks = [keeper, LastCheckpoint(path)]
    fit(tiny_config, tmp_path, data=make_data(), callbacks=callbacks, max_steps=4, **options)
    assert step_of(path) == 4
    assert keeper.best_model_score is not None
    whole = fit(tiny_config, tmp_path / "whole", data=make_data(), max_steps=8, **options)
    resumed = fit(tiny_config, tmp_path, path, data=make_data(), max_steps=8, **options)
    assert_same_training(whole, resumed)


@pytest.mark.parametrize("name", ["every_minutes", "stop_after_minutes"])
@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_times_that_make_no_sense_are_refused(name: str, minutes: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be positive or null, got {minutes}"):
        LastCheckpoint("last.ckpt", **{name: minutes})
