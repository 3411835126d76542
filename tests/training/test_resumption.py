"""Interrupted and resumed trainings equal the uninterrupted one, bit for bit."""

from __future__ import annotations

import importlib
import random
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lipnet.data import DigitsDataModule, LabelledImages, NpzImages
from lipnet.data.loaders import WorkerLoader
from lipnet.models.archive import read_archive, write_archive
from lipnet.training import (
    EMMA,
    BatchWarmup,
    CosineWithWarmup,
    ExponentialMovingAverage,
    LastCheckpoint,
    Lookahead,
    ModuleOptimizer,
    OneCycle,
    PerStepSchedule,
    step_schedule,
)
from tests.training.runs import (
    Interrupted,
    KillAfter,
    assert_same_training,
    best_checkpoint,
    fit,
    make_module,
    make_trainer,
)

AT_ONCE = 1e-9  # minutes: after every step
MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def make_data(**settings: Any) -> DigitsDataModule:
    return DigitsDataModule(batch_size=64, eval_batch_size=60, **settings)


def callbacks_of(folder: Path, average: bool = False) -> list[Callback]:
    averages: list[Callback] = [ExponentialMovingAverage(decay=0.9)] if average else []
    return [*averages, best_checkpoint(folder)]


def interrupt(config: dict[str, Any], folder: Path, steps: int, ckpt_path: Path | None = None, **settings: Any) -> Path:
    """A training that keeps every step and is killed after so many; returns its latest checkpoint."""
    latest = LastCheckpoint(folder / "latest.ckpt", every_minutes=AT_ONCE)
    callbacks = [KillAfter(steps), *settings.pop("callbacks", callbacks_of(folder)), latest]
    with pytest.raises(Interrupted):
        fit(config, folder, ckpt_path, callbacks=callbacks, **settings)
    return latest.path


@pytest.mark.cover(0)
@pytest.mark.parametrize(
    ("steps", "average", "schedule"),
    [
        (3, False, None),
        (11, True, None),
        (11, False, CosineWithWarmup(warmup=0.3)),
        (3, True, OneCycle(momentum=(0.85, 0.95))),
    ],
)
def test_a_training_killed_within_an_epoch(
    tmp_path: Path, tiny_config: dict[str, Any], steps: int, average: bool, schedule: PerStepSchedule | None
) -> None:
    """Epochs have 8 steps: one training is killed in its first and one in its second."""
    schedules = {} if schedule is None else {"scheduler": schedule}

    def settings(folder: str) -> dict[str, Any]:
        module, callbacks = make_module(tiny_config, **schedules), callbacks_of(tmp_path / folder, average)
        return {"data": make_data(), "module": module, "callbacks": callbacks, "limit_train_batches": 8}

    whole = fit(tiny_config, tmp_path / "a", **settings("a"))
    path = interrupt(tiny_config, tmp_path / "b", steps, **settings("b"))
    assert torch.load(path, weights_only=True)["global_step"] == steps
    resumed = fit(tiny_config, tmp_path / "b", path, **settings("b"))
    assert_same_training(whole, resumed)
    assert_same_files(whole, resumed)


def test_a_training_with_lookahead_killed_twice(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Slow weights move every third step; the training is killed between two of these moves."""
    optimizer = ModuleOptimizer(MOMENTUM, lookahead=partial(Lookahead, steps=3))

    def settings() -> dict[str, Any]:
        module = make_module(tiny_config, optimizer=optimizer)
        return {"data": make_data(), "module": module, "limit_train_batches": 8}

    whole = fit(tiny_config, tmp_path / "a", **settings())
    path = interrupt(tiny_config, tmp_path / "b", 5, **settings())
    path = interrupt(tiny_config, tmp_path / "b", 11, path, **settings())
    assert_same_training(whole, fit(tiny_config, tmp_path / "b", path, **settings()))


def assert_same_files(one: Trainer, other: Trainer) -> None:
    scores = [trainer.checkpoint_callback.best_model_score for trainer in (one, other)]
    assert scores[0] == scores[1]
    files = [trainer.checkpoint_callback.best_model_path for trainer in (one, other)]
    states = [torch.load(file, weights_only=True)["state_dict"] for file in files]
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_training_killed_three_times(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    whole = fit(tiny_config, tmp_path / "a", data=make_data())
    path = interrupt(tiny_config, tmp_path / "b", 5, data=make_data())
    path = interrupt(tiny_config, tmp_path / "b", 9, path, data=make_data())
    path = interrupt(tiny_config, tmp_path / "b", 30, path, data=make_data())
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data())
    assert_same_training(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [8, 21, 30])
def test_a_training_with_worker_processes(tmp_path: Path, tiny_config: dict[str, Any], steps: int) -> None:
    whole = fit(tiny_config, tmp_path / "a", data=make_data())
    path = interrupt(tiny_config, tmp_path / "b", steps, data=make_data(num_workers=1))
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(num_workers=1))
    assert_same_training(whole, resumed)


@pytest.mark.slow
def test_accumulated_gradients_are_never_cut(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Steps follow batches 4, 8, ..., 20 and 21."""
    settings = {"accumulate_grad_batches": 4}
    whole = fit(tiny_config, tmp_path / "a", data=make_data(), **settings)
    assert whole.global_step == 12
    path = interrupt(tiny_config, tmp_path / "b", 8, data=make_data(), **settings)
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(), **settings)
    assert_same_training(whole, resumed)


def test_a_state_between_two_steps_is_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """A validation follows batch 3 of 4, and steps batches 2 and 4: the best checkpoint lacks a gradient."""
    settings = {"limit_train_batches": 4, "val_check_interval": 3, "accumulate_grad_batches": 2, "max_epochs": 1}
    trainer = fit(tiny_config, tmp_path, data=make_data(), **settings)
    best = Path(trainer.checkpoint_callback.best_model_path)
    assert torch.load(best, weights_only=True)["global_step"] == 1
    with pytest.raises(ValueError, match="from between two optimizer steps and lacks the accumulated gradients"):
        fit(tiny_config, tmp_path, best, data=make_data(), **settings)


def test_a_grown_batch_keeps_its_size_within_the_epoch(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Steps follow batches 1 to 4 of the first epoch, and batches 2 and 4 of the second: killed between these two."""

    def settings(folder: str) -> dict[str, Any]:
        callbacks = [BatchWarmup({0: 1, 1: 2}), *callbacks_of(tmp_path / folder)]
        module = make_module(tiny_config, scheduler=OneCycle())
        return {"data": make_data(), "module": module, "callbacks": callbacks, "limit_train_batches": 4}

    whole = fit(tiny_config, tmp_path / "a", **settings("a"))
    path = interrupt(tiny_config, tmp_path / "b", 5, **settings("b"))
    resumed = fit(tiny_config, tmp_path / "b", path, **settings("b"))
    assert resumed.global_step == 6
    assert_same_training(whole, resumed)


def test_gradients_accumulate_within_the_rest_of_an_epoch(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Steps follow batches 2 and 4 of each epoch: killed after the first."""

    def settings(folder: str) -> dict[str, Any]:
        callbacks = [GradientAccumulationScheduler({0: 2}), *callbacks_of(tmp_path / folder)]
        return {"data": make_data(), "callbacks": callbacks, "limit_train_batches": 4}

    whole = fit(tiny_config, tmp_path / "a", **settings("a"))
    path = interrupt(tiny_config, tmp_path / "b", 1, **settings("b"))
    resumed = fit(tiny_config, tmp_path / "b", path, **settings("b"))
    assert resumed.global_step == 4
    assert_same_training(whole, resumed)


class Noise(Callback):
    """Moves a weight by random numbers of Python, numpy and torch, and draws more when an epoch ends."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        with torch.no_grad():
            moved = torch.rand(()) + np.random.rand() + np.random.randn() + random.random() + random.gauss(0, 1)
            next(iter(pl_module.model.parameters())).mul_(1 + 1e-3 * moved)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.rand(3)


def seed_everything(seed: int) -> None:
    for draw in (random.seed, np.random.seed, torch.manual_seed):
        draw(seed)


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("steps", [3, 8, 11])
def test_random_numbers_go_on(
    tmp_path: Path, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, steps: int, draws: bool
) -> None:
    """Also if a loader draws a number when it starts, within an epoch, too."""

    def drawing(self: WorkerLoader, batches: Any = WorkerLoader._batches) -> Any:
        torch.rand(1)
        return batches(self)

    if draws:
        monkeypatch.setattr(WorkerLoader, "_batches", drawing)

    def settings(folder: str) -> dict[str, Any]:
        callbacks = [Noise(), *callbacks_of(tmp_path / folder)]
        return {"data": make_data(), "callbacks": callbacks, "limit_train_batches": 8}

    seed_everything(0)
    whole = fit(tiny_config, tmp_path / "a", **settings("a"))
    seed_everything(0)
    path = interrupt(tiny_config, tmp_path / "b", steps, **settings("b"))
    seed_everything(1)
    assert_same_training(whole, fit(tiny_config, tmp_path / "b", path, **settings("b")))


def test_weights_in_float64_are_not_rounded(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    settings = {"precision": "64-true", "limit_train_batches": 4}
    whole = fit(tiny_config, tmp_path / "a", data=make_data(), **settings)
    path = interrupt(tiny_config, tmp_path / "b", 3, data=make_data(), **settings)
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(), **settings)
    assert_same_training(whole, resumed)
    kept = read_archive(path)[0]["state_dict"]
    module = make_module(tiny_config)
    resumed = make_trainer(tmp_path / "c", precision="64-true")
    resumed.test(module, make_data(), ckpt_path=path, weights_only=True, verbose=False)
    assert all(value.equal(kept[name]) for name, value in module.model.state_dict(prefix="model.").items())


def test_an_epoch_of_the_same_batches_does_not_go_on_in_its_middle(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Lightning replaces the sampler of a training that overfits a few batches."""
    settings = {"overfit_batches": 4}
    path = interrupt(tiny_config, tmp_path / "b", 6, data=make_data(augment=False), **settings)
    assert read_archive(path)[0]["global_step"] == 4
    whole = fit(tiny_config, tmp_path / "a", data=make_data(augment=False), **settings)
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(augment=False), **settings)
    assert_same_training(whole, resumed)
    with pytest.raises(ValueError, match="can continue in the middle of an epoch, got a WorkerLoader that cannot"):
        fit(
            tiny_config,
            tmp_path / "c",
            data=make_data(augment=False),
            callbacks=[LastCheckpoint(tmp_path / "c.ckpt", stop_after_minutes=1.0)],
            **settings,
        )


OWN = """from torch.nn.functional import cross_entropy
from lipnet.layers import LipschitzModule

SLOPE = 0.5
WEIGHT = 1.0

def loss(logits, labels, smoothing=0.0):
    return WEIGHT * cross_entropy(logits, labels, label_smoothing=smoothing)

class Own(LipschitzModule):
    # an activation
    def forward(self, x):
        return SLOPE * x.abs()

    def lipschitz_bound(self):
        return 1.0
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("SLOPE = 0.5", "SLOPE = 0.25", False),
        ("x.abs()", "x.relu()", False),
        ("WEIGHT * cross", "2 * cross", False),
        ("# an", "# another", True),
    ],
    ids=["constant", "method", "loss", "comment"],
)
def test_other_code_of_your_own_modules_is_refused(
    tmp_path: Path, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, old: str, new: str, same: bool
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    config = {**tiny_config, "activation": {"_target_": "own_activation.Own", "_partial_": True}}

    def settings(code: str, edited: str = "") -> dict[str, Any]:
        (tmp_path / "own_activation.py").write_text(code)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "own_activation", raising=False)
        loss = partial(importlib.import_module("own_activation").loss, smoothing=0.1)
        module = make_module(config, trust=["own_activation"], loss=loss)
        # The training uses what is loaded, whatever the file holds since.
        (tmp_path / "own_activation.py").write_text(edited or code)
        return {"module": module, "data": make_data(), "limit_train_batches": 2}

    path = interrupt(config, tmp_path, 1, **settings(OWN, edited=OWN.replace(old, new)))
    if same:
        assert fit(config, tmp_path, path, **settings(OWN.replace(old, new))).global_step == 4
    else:
        with pytest.raises(ValueError, match=r"SHA-256 of your own code: .* resume with that"):
            fit(config, tmp_path, path, **settings(OWN.replace(old, new)))


@pytest.mark.slow
def test_validations_within_an_epoch_are_not_left_out(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Validations follow batches 5, 10, 15 and 20 of 21: killed after the first of them, its file is there."""
    whole = fit(tiny_config, tmp_path / "a", data=make_data(), val_check_interval=5)
    path = interrupt(tiny_config, tmp_path / "b", 5, data=make_data(), val_check_interval=5)
    assert torch.load(path, weights_only=True)["global_step"] == 5
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(), val_check_interval=5)
    assert_same_training(whole, resumed)
    assert_same_files(whole, resumed)


def test_a_checkpoint_between_validations_has_the_score_of_the_last_one(
    tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    """A validation follows the third of four steps, and the best checkpoint is chosen after the fourth."""

    def settings(folder: str) -> dict[str, Any]:
        callbacks = [best_checkpoint(tmp_path / folder, save_on_train_epoch_end=True)]
        return {"data": make_data(), "callbacks": callbacks, "limit_train_batches": 4, "val_check_interval": 3}

    whole = fit(tiny_config, tmp_path / "a", **settings("a"))
    path = interrupt(tiny_config, tmp_path / "b", 3, **settings("b"))
    resumed = fit(tiny_config, tmp_path / "b", path, **settings("b"))
    assert_same_training(whole, resumed)
    assert_same_files(whole, resumed)


@pytest.mark.slow
def test_a_plain_loader_does_not_go_on_in_the_middle_of_an_epoch(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    class PlainDigits(DigitsDataModule):
        def train_dataloader(self) -> Any:
            loader = super().train_dataloader()
            return torch.utils.data.DataLoader(loader.dataset, batch_size=64, sampler=loader.sampler)

    path = interrupt(tiny_config, tmp_path, 25, data=make_data())
    with pytest.raises(ValueError, match="from the middle of an epoch, where DataLoader cannot continue"):
        fit(tiny_config, tmp_path, path, data=PlainDigits(batch_size=64))


def test_an_average_is_not_dropped_nor_made_up(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    path = interrupt(tiny_config, tmp_path / "a", 3, data=make_data(), callbacks=[ExponentialMovingAverage()])
    with pytest.raises(ValueError, match=r"holds averaged weights: resume with callbacks=\[default,ema\]"):
        fit(tiny_config, tmp_path / "a", path, data=make_data())
    path = interrupt(tiny_config, tmp_path / "b", 3, data=make_data())
    with pytest.raises(ValueError, match="without an average of the weights: resume without"):
        fit(tiny_config, tmp_path / "b", path, data=make_data(), callbacks=[ExponentialMovingAverage()])


def test_a_schedule_needs_to_know_its_end(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, scheduler=CosineWithWarmup())
    with pytest.raises(ValueError, match=r"CosineWithWarmup needs the number of .* set trainer\.max_epochs"):
        fit(tiny_config, tmp_path, module=module, max_epochs=-1, max_time="00:00:01:00")


@pytest.mark.cover(0)
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 42),
        ({"limit_train_batches": 4}, 8),
        ({"limit_train_batches": 0.5}, 20),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"accumulate_grad_batches": 5}, 10),
        ({"max_time": "00:01:00:00"}, 42),
    ],
    ids=str,
)
def test_a_schedule_by_the_step_spans_the_training(
    tmp_path: Path, tiny_config: dict[str, Any], settings: dict[str, Any], steps: int
) -> None:
    seen: list[float] = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    schedule = CosineWithWarmup(warmup=0.25, final=0.1)
    module = make_module(tiny_config, scheduler=schedule)
    fit(tiny_config, tmp_path, module=module, callbacks=[Rates(), best_checkpoint(tmp_path)], **settings)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    made, expected = schedule(optimizer, steps), []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    assert seen == expected


def start(config: dict[str, Any], folder: Path, ckpt_path: Path | None = None, **settings: Any) -> Trainer:
    module = make_module(
        config, **{name: settings.pop(name) for name in ("optimizer", "scheduler") if name in settings}
    )
    return fit(config, folder, ckpt_path, module=module, limit_train_batches=2, **settings)


@pytest.mark.parametrize("scheduler", [None, OneCycle(), partial(step_schedule, total_epochs=2, at=(0.5,))])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (partial(torch.optim.SGD, lr=0.05, momentum=0.9), r"lr: .* in the checkpoint, .* here"),
        (
            partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
            r"weight_decay: 0.* in the checkpoint, 0\.1",
        ),
        (partial(torch.optim.AdamW, lr=0.1), r"keeps its optimizer, got AdamW, which differs .* betas"),
        (ModuleOptimizer(MOMENTUM, lookahead=Lookahead), r"got Lookahead, which differs .* lookahead_alpha"),
    ],
    ids=["rate", "decay", "class", "lookahead"],
)
def test_another_optimizer_is_refused(
    tmp_path: Path, tiny_config: dict[str, Any], optimizer: Any, scheduler: Any, message: str
) -> None:
    start(tiny_config, tmp_path, scheduler=scheduler, max_epochs=1, max_steps=4)
    with pytest.raises(ValueError, match=message):
        start(tiny_config, tmp_path, tmp_path / "last.ckpt", scheduler=scheduler, optimizer=optimizer, max_steps=4)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (MOMENTUM, "got SGD, which differs .* lookahead_alpha"),
        (ModuleOptimizer(MOMENTUM, lookahead=partial(Lookahead, steps=4)), "lookahead_steps: 3 in the .*, 4 here"),
    ],
    ids=["without", "steps"],
)
def test_other_settings_of_lookahead_are_refused(
    tmp_path: Path, tiny_config: dict[str, Any], optimizer: Any, message: str
) -> None:
    begun = ModuleOptimizer(MOMENTUM, lookahead=partial(Lookahead, steps=3))
    start(tiny_config, tmp_path, optimizer=begun, max_epochs=1, max_steps=4)
    with pytest.raises(ValueError, match=message):
        start(tiny_config, tmp_path, tmp_path / "last.ckpt", optimizer=optimizer, max_steps=4)


STEPS = partial(step_schedule, total_epochs=4)
COSINE = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=4)


@pytest.mark.parametrize(
    ("begun", "resumed", "message"),
    [
        (STEPS, partial(STEPS, gamma=0.9), r"got MultiStepLR with gamma: 0\.1 in the checkpoint, 0\.9 here"),
        (STEPS, partial(STEPS, at=(0.9,)), "milestones: .* in the checkpoint, .* here"),
        (STEPS, partial(step_schedule, total_epochs=8), "milestones: .* in the checkpoint, .* here"),
        (STEPS, COSINE, "got CosineAnnealingLR with T_max: None in the checkpoint, 4 here"),
        (COSINE, partial(COSINE, T_max=8), "T_max: 4 in the checkpoint, 8 here"),
        (OneCycle(), OneCycle(pct_start=0.9), "got OneCycleLR with _schedule_phases"),
        (CosineWithWarmup(), CosineWithWarmup(warmup=0.5), "'warmup_steps': 0, .* in the checkpoint, .*: 2, .* here"),
        (STEPS, CosineWithWarmup(), "with gamma: 0.1 in the checkpoint, None here"),
        (STEPS, None, "keeps its schedules, got 0, and 1 in the checkpoint"),
        (None, STEPS, "keeps its schedules, got 1, and 0 in the checkpoint"),
    ],
)
def test_another_schedule_is_refused(
    tmp_path: Path, tiny_config: dict[str, Any], begun: Any, resumed: Any, message: str
) -> None:
    start(tiny_config, tmp_path, scheduler=begun, max_epochs=1, max_steps=4)
    with pytest.raises(ValueError, match=message):
        start(tiny_config, tmp_path, tmp_path / "last.ckpt", scheduler=resumed, max_steps=4)


@pytest.mark.parametrize("schedule", [OneCycle(), CosineWithWarmup()])
def test_another_length_is_refused(tmp_path: Path, tiny_config: dict[str, Any], schedule: PerStepSchedule) -> None:
    start(tiny_config, tmp_path, scheduler=schedule, max_epochs=1, max_steps=4)
    with pytest.raises(ValueError, match=r"keeps its schedule and its length, .*total_steps'?: [24].*, .*6"):
        start(tiny_config, tmp_path, tmp_path / "last.ckpt", scheduler=schedule, max_epochs=3)


TIMED = {"scheduler": OneCycle(over="time"), "max_time": "00:00:01:00"}


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"loss": EMMA()}, {"max_epochs": 3}, "length in steps: 4 in the checkpoint, 6 here"),
        ({"loss": EMMA()}, {"max_time": "00:00:01:00"}, r"length in seconds: None in the checkpoint, 60\.0 here"),
        (TIMED, {"max_time": "00:01:00:00"}, r"length in seconds: 60\.0 in the checkpoint, 3600\.0 here"),
    ],
    ids=["EMMA, steps", "EMMA, time", "timed"],
)
def test_a_length_on_which_a_step_depends_is_kept(
    tmp_path: Path, tiny_config: dict[str, Any], settings: Any, change: dict[str, Any], message: str
) -> None:
    path = interrupt(tiny_config, tmp_path, 3, **lengths(tiny_config, settings))
    with pytest.raises(ValueError, match=message):
        fit(tiny_config, tmp_path, path, **lengths(tiny_config, settings | change))
    resumed = fit(tiny_config, tmp_path, path, **lengths(tiny_config, settings))
    assert resumed.global_step == 4


def lengths(config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a training with two steps an epoch, from those of its module and of its trainer."""
    own = {name: value for name, value in settings.items() if name in ("loss", "scheduler")}
    others = {name: value for name, value in settings.items() if name not in own}
    return {"module": make_module(config, **own), "limit_train_batches": 2, **others}


def test_another_number_of_processes_is_refused_at_any_point(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """A checkpoint of the end of an epoch, as two processes would have written it, and as earlier versions wrote it."""
    start(tiny_config, tmp_path, max_epochs=1)
    content = read_archive(tmp_path / "last.ckpt")[0]
    assert content["kept_facts"] == {"number of processes": 1}
    for name, facts in (("two", {"number of processes": 2}), ("earlier", None)):
        changed = {key: value for key, value in content.items() if key != "kept_facts"}
        write_archive(tmp_path / f"{name}.ckpt", changed if facts is None else changed | {"kept_facts": facts})
    with pytest.raises(ValueError, match="number of processes: 2 in the checkpoint, 1 here: resume with that"):
        start(tiny_config, tmp_path, tmp_path / "two.ckpt")
    assert start(tiny_config, tmp_path, tmp_path / "earlier.ckpt").global_step == 4


class ByteDigits(DigitsDataModule):
    """Digits whose white is 255, as that of extra images, and not 16."""

    def read_images(self, train: bool) -> LabelledImages:
        return replace(super().read_images(train), maximum=255)


def test_other_extra_images_are_refused_and_another_place_is_not(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)

    def data(name: str, images: Any) -> DigitsDataModule:
        np.savez(tmp_path / f"{name}.npz", image=images, label=np.arange(20) % 10)
        return ByteDigits(batch_size=64, eval_batch_size=60, extra=NpzImages(tmp_path / f"{name}.npz", ratio=0.5))

    one, other = generator.integers(0, 256, (2, 20, 8, 8, 1), dtype=np.uint8)
    start(tiny_config, tmp_path, data=data("a", one), max_epochs=1)
    for changed in (data("a", other), ByteDigits(batch_size=64, eval_batch_size=60)):
        with pytest.raises(ValueError, match=r"SHA-256 of the extra images: .* in the checkpoint, .* here"):
            start(tiny_config, tmp_path, tmp_path / "last.ckpt", data=changed)
    assert start(tiny_config, tmp_path, tmp_path / "last.ckpt", data=data("b", one)).global_step == 4


@pytest.mark.parametrize("steps", [4, 6])
def test_a_training_of_so_many_steps_is_resumed(tmp_path: Path, tiny_config: dict[str, Any], steps: int) -> None:
    """Resume at the end of the first epoch, or in the middle of the second one; the last step is within the third."""
    settings: dict[str, Any] = {"limit_train_batches": 4, "max_epochs": -1, "max_steps": 10}
    whole = fit(tiny_config, tmp_path / "a", data=make_data(), **settings)
    path = interrupt(tiny_config, tmp_path / "b", steps, data=make_data(), **settings)
    resumed = fit(tiny_config, tmp_path / "b", path, data=make_data(), **settings)
    assert_same_training(whole, resumed)
    assert resumed.max_steps == 10


def test_fewer_epochs_than_are_done_are_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    start(tiny_config, tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match=r"trainer\.max_epochs must be at least 1, the epochs done, got 0"):
        start(tiny_config, tmp_path, tmp_path / "last.ckpt", max_epochs=0)


def test_a_moved_run_keeps_its_best_score(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    first = start(tiny_config, tmp_path / "old", max_epochs=1)
    best = first.checkpoint_callback.best_model_score
    (tmp_path / "old").rename(tmp_path / "new")
    again = start(tiny_config, tmp_path / "new", tmp_path / "new" / "last.ckpt", max_epochs=1)
    assert again.checkpoint_callback.best_model_score == best
    assert Path(again.checkpoint_callback.best_model_path).parent == tmp_path / "new"
    assert all(Path(path).parent == tmp_path / "new" for path in again.checkpoint_callback.best_k_models)
