"""The checkpoint that a training leaves to certify, and its certificates in the loggers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lipnet.models import load_checkpoint
from lipnet.training.last_checkpoint import UNFINISHED
from lipnet.workflows import certify_checkpoint
from lipnet.workflows.trained import best_checkpoint, checkpoint_to_certify, log_certificates, unfinished_on_sigterm
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


def test_no_checkpoint_is_the_best_of_a_run_that_kept_none(config: DictConfig) -> None:
    trainer = fit(OmegaConf.merge(config, {"trainer": {"fast_dev_run": True}}))
    assert best_checkpoint(trainer) is None


def test_sigterm_ends_a_certification_with_the_status_of_a_run_to_resume() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, unfinished_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == UNFINISHED
    assert signal.getsignal(signal.SIGTERM) == before


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
