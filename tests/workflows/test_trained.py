"""The checkpoint that a training leaves to certify, and its certificates in the loggers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lipnet.models import load_checkpoint
from lipnet.training.last_checkpoint import UNFINISHED
from lipnet.workflows import certify_checkpoint, trained
from lipnet.workflows.trained import best_checkpoint, checkpoint_to_certify, log_certificates, resumable_on_signals
from lipnet.workflows.training import log_configuration, make_data, make_trainer
from tests.workflows.runs import fit, seeded_module


@pytest.mark.slow
def test_the_best_checkpoint_has_the_best_score(config: DictConfig, tmp_path: Path) -> None:
    """The learning rate of the third epoch undoes what was learned before."""
    longer = {"max_epochs": 3, "limit_train_batches": 1.0}
    trainer = fit(OmegaConf.merge(config, {"trainer": longer, "scheduler": {"at": [0.66], "gamma": 1e3}}))
    path, score = best_checkpoint(trainer)
    assert path == tmp_path / "digits" / "run" / "checkpoints" / "best.ckpt"
    assert score > trainer.callback_metrics["val/certified_0_01"].item()
    module = seeded_module(config)
    module.model.load_state_dict(load_checkpoint(path).model.state_dict())
    (figures,) = make_trainer(config).validate(module, make_data(config), verbose=False)
    assert score == pytest.approx(figures["val/certified_0_01"])


def test_the_score_of_a_loss_is_its_negative(config: DictConfig) -> None:
    """Hyperparameter searches maximize it."""
    config.callbacks.best_checkpoint.update(monitor="val/loss", mode="min")
    trainer = fit(config)
    assert best_checkpoint(trainer)[1] == -trainer.checkpoint_callback.best_model_score.item() < 0


def test_no_checkpoint_is_the_best_of_a_run_that_kept_none(config: DictConfig) -> None:
    trainer = fit(OmegaConf.merge(config, {"trainer": {"fast_dev_run": True}}))
    assert best_checkpoint(trainer) is None


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Slurm job, and the recorded commands."""
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in {"JOB_ID": "4711", "JOB_NAME": "train", "NTASKS": "1", "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    commands: list[list[str]] = []
    monkeypatch.setattr(trained.subprocess, "run", lambda command, check: commands.append(command))
    return commands


def status_after(number: signal.Signals, folder: Path, kept: bool = True, **settings: Any) -> Any:
    """Exit status of a process that receives a signal in its certification."""
    last = folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    if kept:
        last.touch()
    before = signal.getsignal(number)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=folder, **settings)
    with pytest.raises(SystemExit) as end, resumable_on_signals(trainer, folder):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before
    return end.value.code


@pytest.mark.parametrize(("kept", "status"), [(True, UNFINISHED), (False, 143)])
def test_sigterm_ends_a_certification_with_the_status_of_a_run_to_resume(
    tmp_path: Path, kept: bool, status: int
) -> None:
    assert status_after(signal.SIGTERM, tmp_path, kept) == status


@pytest.mark.parametrize("array", [False, True])
def test_slurms_signal_requeues_a_certification(
    tmp_path: Path, job: list[list[str]], monkeypatch: pytest.MonkeyPatch, array: bool
) -> None:
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4710")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    environment = SLURMEnvironment(requeue_signal=signal.SIGUSR2)
    assert status_after(signal.SIGUSR2, tmp_path, plugins=[environment]) == UNFINISHED
    assert job == [["scontrol", "requeue", "4710_3" if array else "4711"]]


def test_slurms_signal_requeues_no_certification_that_cannot_be_resumed(tmp_path: Path, job: list[list[str]]) -> None:
    assert status_after(signal.SIGUSR1, tmp_path, kept=False, plugins=[SLURMEnvironment()]) == 128 + signal.SIGUSR1
    assert job == []


def test_a_request_at_the_end_of_the_training_is_answered_before_the_certification(
    config: DictConfig, tmp_path: Path, job: list[list[str]]
) -> None:
    class SignalAtTheEnd(Callback):
        def on_train_end(self, *_: Any) -> None:
            signal.raise_signal(signal.SIGUSR1)

    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    settings = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "accelerator": "cpu", "devices": 1}
    trainer = Trainer(
        **settings, logger=False, plugins=[SLURMEnvironment()], callbacks=[SignalAtTheEnd()], default_root_dir=folder
    )
    trainer.fit(seeded_module(config), make_data(config))
    assert job == []
    with pytest.raises(SystemExit) as end, resumable_on_signals(trainer, folder):
        raise AssertionError("the certification must not start")
    assert end.value.code == UNFINISHED
    assert job == [["scontrol", "requeue", "4711"]]


def test_without_a_validation_the_last_state_is_certified(config: DictConfig, tmp_path: Path) -> None:
    config.trainer.check_val_every_n_epoch = 5
    config.callbacks.last = {"_target_": "lipnet.training.LastCheckpoint", "path": str(tmp_path / "last.ckpt")}
    trainer = fit(config)
    assert checkpoint_to_certify(trainer, tmp_path) == (tmp_path / "last.ckpt", None)
    assert load_checkpoint(tmp_path / "last.ckpt").dataset["name"] == "digits"


def test_a_last_checkpoint_that_was_not_written_is_written_to_be_certified(config: DictConfig, tmp_path: Path) -> None:
    """The place of the callback is that of the checkpoint which is written in its stead."""
    config.trainer.check_val_every_n_epoch = 5
    path = tmp_path / "checkpoints" / "last.ckpt"
    config.callbacks.last = {"_target_": "lipnet.training.LastCheckpoint", "path": str(path)}
    trainer = fit(config)
    path.unlink()
    assert checkpoint_to_certify(trainer, tmp_path) == (path, None)
    assert load_checkpoint(path).dataset["name"] == "digits"


def test_without_a_checkpoint_the_average_is_saved_and_certified(config: DictConfig, tmp_path: Path) -> None:
    """The configuration is callbacks=[ema]."""
    config.callbacks = {"ema": {"_target_": "lipnet.training.ExponentialMovingAverage"}}
    trainer = fit(config)
    path, score = checkpoint_to_certify(trainer, tmp_path)
    assert (path, score) == (tmp_path / "checkpoints" / "last.ckpt", None)
    weights, trained = load_checkpoint(path).model.state_dict(), trainer.lightning_module.model.state_dict()
    assert all(weights[name].equal(trained[name]) for name in weights)


def test_loggers_get_settings_figures_and_curve(config: DictConfig, tmp_path: Path) -> None:
    config.logger.tensorboard = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": str(tmp_path)}
    config.trainer.max_epochs = 1
    trainer = fit(config)
    log_configuration(trainer, config)
    folder = tmp_path / "certified"
    path = best_checkpoint(trainer)[0]
    summary = certify_checkpoint(path, folder, data=make_data(config), n_samples=20, radii=["36/255"])
    log_certificates(trainer, summary, folder / "curve.png")
    table = (tmp_path / "digits" / "run" / "csv" / "metrics.csv").read_text()
    assert "certificates/certified_36_255" in table
    assert "certificates/clean_accuracy" in table
    assert "batch_size: 64" in (tmp_path / "digits" / "run" / "csv" / "hparams.yaml").read_text()
    events = EventAccumulator(trainer.loggers[1].log_dir)
    events.Reload()
    assert events.Tags()["images"] == ["certificates/curve"]
    assert "certificates/clean_accuracy" in events.Tags()["scalars"]
