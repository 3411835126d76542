"""Slurm's requeue signal is handled after a step, and the saved state resumes exactly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.connectors import signal_connector

from lipnet.training import SafeRequeue, WholeCheckpointIO
from tests.training.runs import Interrupted, KillAfter, assert_same_training, best_checkpoint, fit

STEPS = 21
"""Of an epoch."""


class SignalAt(Callback):
    """Sends the signal in the middle of a step, and ends the training without notice some steps later."""

    def __init__(self, step: int, requeue: int = signal.SIGUSR1) -> None:
        self.step, self.requeue = step, requeue

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.requeue)
        if trainer.global_step == self.step + 3:
            raise Interrupted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Slurm job, and the recorded arguments of scontrol."""
    for name in ("JOB_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    asked: list[list[str]] = []
    monkeypatch.setattr(signal_connector, "call", lambda command: asked.append(command) or 0)
    return asked


def plugins(**settings: Any) -> list[Any]:
    return [WholeCheckpointIO(), SLURMEnvironment(**settings)]


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("step", [0, 7, STEPS - 1, STEPS + 4])
def test_what_is_saved_is_gone_on_from_exactly(
    tmp_path: Path, tiny_config: dict[str, Any], asked: list[list[str]], step: int
) -> None:
    """Lightning alone would save in the middle of the step, or not at all. At the end of an epoch it is saved there."""
    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path / "cut", plugins=plugins(), callbacks=[SignalAt(step)])
    assert asked == [["scontrol", "requeue", "0"]]
    saved = tmp_path / "cut" / "hpc_ckpt_1.ckpt"
    assert WholeCheckpointIO().load_checkpoint(saved)["global_step"] == step + 1
    resumed = fit(tiny_config, tmp_path / "cut", plugins=plugins(), callbacks=[])
    assert_same_training(resumed, fit(tiny_config, tmp_path / "whole", callbacks=[]))


@pytest.mark.parametrize(
    ("step", "settings"), [(1, {"val_check_interval": 1, "max_epochs": 1}), (4, {})], ids=["validation", "epoch"]
)
def test_the_scores_so_far_are_saved_with_the_state(
    tmp_path: Path, tiny_config: dict[str, Any], asked: list[list[str]], step: int, settings: dict[str, Any]
) -> None:
    """A validation, in the middle or at the end of an epoch of five steps, follows the step of the signal."""
    settings = {"limit_train_batches": 5, "limit_val_batches": 1, "plugins": plugins(), **settings}

    def start(name: str, *more: Callback) -> Trainer:
        callbacks = [best_checkpoint(tmp_path / name, save_top_k=-1), *more]
        return fit(tiny_config, tmp_path / name, callbacks=callbacks, **settings)

    with pytest.raises(Interrupted):
        start("cut", SignalAt(step))
    assert asked == [["scontrol", "requeue", "0"]]
    saved = tmp_path / "cut" / "hpc_ckpt_1.ckpt"
    assert WholeCheckpointIO().load_checkpoint(saved)["global_step"] == step + 1
    resumed, whole = start("cut"), start("whole")
    assert_same_training(whole, resumed)
    scores = [[*map(float, each.checkpoint_callback.best_k_models.values())] for each in (whole, resumed)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_request_before_the_first_step_of_a_resumed_training_waits(
    tmp_path: Path, tiny_config: dict[str, Any], asked: list[list[str]]
) -> None:
    """The loader has no position yet: what Lightning saves then resumes with other images."""

    class SignalAtTheStart(Callback):
        def on_fit_start(self, trainer: Trainer, *_: Any) -> None:
            start = trainer.fit_loop.on_run_start

            def signalled() -> None:
                os.kill(os.getpid(), signal.SIGUSR1)
                start()

            trainer.fit_loop.on_run_start = signalled

    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path / "cut", plugins=plugins(), callbacks=[SignalAt(7)])
    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path / "cut", plugins=plugins(), callbacks=[SignalAtTheStart(), KillAfter(10)])
    assert len(asked) == 2
    assert WholeCheckpointIO().load_checkpoint(tmp_path / "cut" / "hpc_ckpt_2.ckpt")["global_step"] == 9
    resumed = fit(tiny_config, tmp_path / "cut", plugins=plugins(), callbacks=[])
    assert_same_training(resumed, fit(tiny_config, tmp_path / "whole", callbacks=[]))


def test_another_signal_of_the_environment_is_answered(
    tmp_path: Path, tiny_config: dict[str, Any], asked: list[list[str]]
) -> None:
    settings = {"plugins": plugins(requeue_signal=signal.SIGUSR2), "callbacks": [SignalAt(2, signal.SIGUSR2)]}
    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path, **settings)
    assert asked == [["scontrol", "requeue", "0"]]


@pytest.mark.slow
def test_signals_are_left_alone_without_slurm_and_after_the_training(
    tmp_path: Path, tiny_config: dict[str, Any], asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    fit(tiny_config, tmp_path, plugins=plugins(), callbacks=[], max_epochs=1)
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)) == before
    monkeypatch.delenv("SLURM_NTASKS")

    class Look(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            assert signal.getsignal(signal.SIGUSR1) == before[0]

    trainer = fit(tiny_config, tmp_path / "other", callbacks=[Look()], max_epochs=1)
    assert any(isinstance(callback, SafeRequeue) for callback in trainer.callbacks)
    assert asked == []
