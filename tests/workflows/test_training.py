"""The parts of a training, made from a configuration, and resuming."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lipnet.data import CIFAR100DataModule, DigitsDataModule
from lipnet.models import CheckpointError, load_checkpoint, save_checkpoint
from lipnet.training import CertifiedClassifier, WholeCheckpointIO
from lipnet.training.last_checkpoint import UNFINISHED
from lipnet.workflows import certify_checkpoint
from lipnet.workflows.training import (
    best_checkpoint,
    check_certification,
    checkpoint_to_certify,
    log_certificates,
    log_configuration,
    make_data,
    make_module,
    make_trainer,
    model_config,
    resume_path,
    unfinished_on_sigterm,
)
from tests.fake_images import CLASSES, write_class


@pytest.fixture
def config(tmp_path: Path, tiny_config: dict[str, Any]) -> DictConfig:
    """A short training on the digits, composed as train.py would get it."""
    determined_by_data = ("num_classes", "in_channels", "image_size", "mean", "std")
    settings = {
        "data": {"_target_": "lipnet.data.DigitsDataModule", "batch_size": 64, "eval_batch_size": 143},
        "conv": tiny_config["conv"],
        "model": {key: value for key, value in tiny_config.items() if key not in determined_by_data}
        | {"conv": "${conv}"},
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
        "scheduler": {
            "_target_": "lipnet.training.step_schedule",
            "_partial_": True,
            "total_epochs": "${trainer.max_epochs}",
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "default_root_dir": "${paths.output_dir}",
            "accelerator": "cpu",
            "max_epochs": 2,
            "limit_train_batches": 3,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "plugins": [{"_target_": "lipnet.training.WholeCheckpointIO"}],
        },
        "callbacks": {
            "best_checkpoint": {
                "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                "dirpath": "${paths.output_dir}/checkpoints",
                "filename": "best",
                "monitor": "val/certified_0_01",
                "mode": "max",
                "save_last": True,
                "enable_version_counter": False,
            },
            "left_out": None,
        },
        "logger": {
            "csv": {
                "_target_": "lightning.pytorch.loggers.CSVLogger",
                "save_dir": "${paths.output_dir}",
                "name": "csv",
                "version": "",
            },
            "left_out": None,
        },
        "radii": ["0.01", "36/255"],
        "task_name": "digits",
        "ckpt_path": None,
        "paths": {"log_dir": str(tmp_path), "output_dir": "${paths.log_dir}/${task_name}/run"},
    }
    return OmegaConf.create(settings)


def seeded_module(config: DictConfig) -> CertifiedClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_module(config, make_data(config))


def fit(config: DictConfig) -> Trainer:
    module, trainer = seeded_module(config), make_trainer(config)
    trainer.fit(module, make_data(config), ckpt_path=resume_path(config, module), weights_only=True)
    return trainer


def test_the_data_are_those_of_the_configuration(config: DictConfig) -> None:
    config.data.seed = 3
    data = make_data(config)
    assert isinstance(data, DigitsDataModule)
    assert (data.batch_size, data.eval_batch_size, data.seed) == (64, 143, 3)


def test_the_model_is_made_for_the_data(config: DictConfig, tiny_config: dict[str, Any]) -> None:
    module = make_module(config, make_data(config))
    assert module.description["model"] == tiny_config
    assert type(module.description["model"]["conv"]) is dict
    assert module.description["dataset"] == {"name": "digits", "seed": 0, "validation_fraction": 0.1}
    assert module.model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(module.loss, nn.CrossEntropyLoss)


def test_the_other_data_make_another_model(config: DictConfig) -> None:
    described = model_config(config, CIFAR100DataModule.spec)
    assert (described["num_classes"], described["in_channels"], described["image_size"]) == (100, 3, 32)
    assert (described["mean"], described["std"]) == ([0.5071, 0.4865, 0.4409], 0.2668)


def test_what_the_configuration_states_stands(config: DictConfig) -> None:
    config.model.std = 0.5
    described = model_config(config, DigitsDataModule.spec)
    assert (described["std"], described["mean"]) == (0.5, [0.3053])


def test_optimizer_schedule_and_radii_are_those_of_the_configuration(config: DictConfig) -> None:
    config.trainer.max_epochs = 40
    made = make_module(config, make_data(config))
    parts = made.configure_optimizers()
    assert isinstance(parts["optimizer"], torch.optim.SGD)
    assert sorted(parts["lr_scheduler"].milestones) == [20, 30]
    assert made.certified_accuracy.radii == ("0.01", "36/255")


def test_the_trainer_has_the_callbacks_and_loggers_that_are_not_null(config: DictConfig) -> None:
    trainer = make_trainer(config)
    assert trainer.max_epochs == 2
    assert isinstance(trainer.logger, CSVLogger)
    assert len(trainer.loggers) == 1
    (keeper,) = trainer.checkpoint_callbacks
    assert isinstance(keeper, ModelCheckpoint)
    assert keeper.monitor == "val/certified_0_01"
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpointIO)


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_training_needs_neither_callbacks_nor_loggers(config: DictConfig, nothing: dict[str, Any] | None) -> None:
    config.callbacks, config.logger = nothing, nothing
    config.trainer.enable_checkpointing = False
    trainer = make_trainer(config)
    assert trainer.loggers == []
    assert best_checkpoint(trainer) is None


def test_a_training_goes_on_where_it_ended(config: DictConfig, tmp_path: Path) -> None:
    config.scheduler.total_epochs = 2
    first = fit(OmegaConf.merge(config, {"trainer": {"max_epochs": 1}}))
    assert (first.current_epoch, first.global_step) == (1, 3)
    last = tmp_path / "digits" / "run" / "checkpoints" / "last.ckpt"
    resumed = OmegaConf.merge(config, {"ckpt_path": "last"})
    assert resume_path(resumed, seeded_module(config)) == last
    second = fit(resumed)
    assert (second.current_epoch, second.global_step) == (2, 6)


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


def test_a_new_training_goes_on_from_nothing(config: DictConfig) -> None:
    assert resume_path(config, seeded_module(config)) is None


def test_a_checkpoint_of_the_same_model_and_data_is_gone_on_from(config: DictConfig, tiny_checkpoint: Path) -> None:
    config.ckpt_path = str(tiny_checkpoint)
    assert resume_path(config, seeded_module(config)) == tiny_checkpoint


def test_a_missing_checkpoint_is_an_error(config: DictConfig, tmp_path: Path) -> None:
    module = seeded_module(config)
    config.ckpt_path = str(tmp_path / "missing.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing\.ckpt"):
        resume_path(config, module)


def test_last_without_a_run_is_an_error(config: DictConfig, tmp_path: Path) -> None:
    config.ckpt_path = "last"
    with pytest.raises(FileNotFoundError, match=r"ckpt_path=last: no run in .*digits has checkpoints/last\.ckpt"):
        resume_path(config, seeded_module(config))


def test_a_setting_that_a_checkpoint_does_not_state_counts_as_its_default(
    config: DictConfig, tiny_checkpoint: Path
) -> None:
    """As in checkpoints from before an option existed."""
    config.ckpt_path = str(tiny_checkpoint)
    config.model.mirror = False
    config.conv.paired = True
    assert resume_path(config, seeded_module(config)) == tiny_checkpoint
    config.model.mirror = True
    with pytest.raises(ValueError, match=r"its model differs .* mirror: False in the checkpoint, True here"):
        resume_path(config, seeded_module(config))


def test_sigterm_ends_a_certification_with_the_status_of_a_run_to_resume() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, unfinished_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == UNFINISHED
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_requeued_job_resumes_its_own_checkpoint_with_the_same_settings_alone(
    config: DictConfig, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a signal, as after the failure of a node, there is no checkpoint of Lightning's."""
    last = tmp_path / "digits" / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, last)
    assert resume_path(config, seeded_module(config)) is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume_path(config, seeded_module(config)) == last
    config.ckpt_path = str(tiny_checkpoint)
    assert resume_path(config, seeded_module(config)) == last
    config.model.depth = 6
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be resumed: its model .* depth: 3 in the checkpoint"):
        resume_path(config, seeded_module(config))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": {"depth": 6}}, "its model differs .* depth: 3 in the checkpoint, 6 here"),
        ({"conv": {"groups": [2, 2]}}, r"its model differs .* conv: .*\[4, None\].*\[2, 2\]"),
        ({"data": {"seed": 7}}, "its dataset differs .* seed: 0 in the checkpoint, 7 here"),
        (
            {"model": {"depth": 6, "initial_channels": 16}},
            "depth: 3 in the checkpoint, 6 here; initial_channels: 8 in the checkpoint, 16 here",
        ),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_model_or_other_data_is_refused(
    config: DictConfig, tiny_checkpoint: Path, changes: dict[str, Any], difference: str
) -> None:
    changed = OmegaConf.merge(config, changes, {"ckpt_path": str(tiny_checkpoint)})
    with pytest.raises(ValueError, match=rf"tiny\.ckpt cannot be resumed: .*{difference}"):
        resume_path(changed, seeded_module(changed))


def test_a_checkpoint_on_a_folder_is_resumed_with_the_same_files_alone(config: DictConfig, tmp_path: Path) -> None:
    for seed, name in enumerate(CLASSES):
        write_class(tmp_path / "images" / name, 20, seed)
    data = {"_target_": "lipnet.data.FolderDataModule", "data_dir": str(tmp_path / "images"), "image_size": 8}
    config.data = data
    module = seeded_module(config)
    path = tmp_path / "folder.ckpt"
    config.ckpt_path = str(path)
    model, dataset = module.description["model"], module.description["dataset"]
    save_checkpoint(path, module.model, model, dataset)
    assert resume_path(config, module) == path
    save_checkpoint(path, module.model, model, dataset | {"contents_sha256": "other"})
    with pytest.raises(ValueError, match=r"its dataset differs .* contents_sha256: other in the checkpoint"):
        resume_path(config, module)
    # Checkpoints of earlier versions do not state it.
    save_checkpoint(path, module.model, model, {key: dataset[key] for key in dataset if key != "contents_sha256"})
    with pytest.warns(
        UserWarning, match="earlier version, which stated the names of its files, but not their contents"
    ):
        assert resume_path(config, module) == path


def test_a_checkpoint_of_another_dataset_is_refused(
    config: DictConfig, tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]
) -> None:
    path = tmp_path / "other.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, {"name": "letters", "seed": 0, "validation_fraction": 0.1})
    config.ckpt_path = str(path)
    with pytest.raises(ValueError, match=r"its dataset differs .* name: letters in the checkpoint, digits here"):
        resume_path(config, seeded_module(config))


def test_a_damaged_checkpoint_is_refused(config: DictConfig, tiny_checkpoint: Path) -> None:
    tiny_checkpoint.write_bytes(tiny_checkpoint.read_bytes()[:500])
    config.ckpt_path = str(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        resume_path(config, seeded_module(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certify": {"dtype": "float16"}}, r"certify\.dtype must be one of float32, float64, got 'float16'"),
        ({"certify": {"n_samples": -3}}, r"certify\.n_samples must be from 1 to 359, .*test split, or null, got -3"),
        ({"certify": {"n_samples": 360}}, r"from 1 to 359, .*got 360"),
        ({"certify": {"batch_size": 0}}, r"certify\.batch_size must be at least 1, got 0"),
        ({"certify": {"report": "pdf"}}, "report must be 'html' or null, got 'pdf'"),
        ({"certify": {"device": "nowhere"}}, "device must be 'auto' or a device of torch, got 'nowhere'"),
        ({"trainer": {"max_epochs": 0}}, r"trainer\.max_epochs must be positive, or -1 for no limit, got 0"),
        ({"trainer": {"fast_dev_run": True}}, "keeps no checkpoint to certify: set certify=null"),
    ],
    ids=str,
)
def test_what_would_fail_after_the_training_is_refused_before_it(
    config: DictConfig, changes: dict[str, Any], message: str
) -> None:
    settings = {"split": "test", "n_samples": None, "batch_size": 250, "dtype": "float64", "device": "auto"}
    config.certify = settings
    check_certification(config)
    with pytest.raises(ValueError, match=message):
        check_certification(OmegaConf.merge(config, changes))


def test_missing_test_files_are_found_before_the_training(config: DictConfig, tmp_path: Path) -> None:
    data = {"_target_": "lipnet.data.CIFAR100DataModule", "data_dir": str(tmp_path)}
    settings = {"split": "test", "n_samples": None, "batch_size": 250, "dtype": "float64", "device": "auto"}
    config.data, config.certify = data, settings
    with pytest.raises(FileNotFoundError):
        check_certification(config)


def test_a_monitor_of_another_radius_is_refused_before_the_first_epoch(config: DictConfig) -> None:
    config.radii = ["0.5"]
    with pytest.raises(ValueError, match=r"monitor must be .*_0_5, got val/certified_0_01: add its radius"):
        fit(config)


def test_a_time_that_yaml_reads_as_a_number_is_refused(config: DictConfig) -> None:
    config.trainer.max_time = 216000
    with pytest.raises(ValueError, match=r"max_time must be text, DD:HH:MM:SS, got the number 216000: quote it"):
        make_trainer(config)


@pytest.mark.parametrize("loggers", [None, [], {}])
def test_neither_progress_bar_nor_loggers_are_needed(config: DictConfig, loggers: Any) -> None:
    for name in ("lightning.pytorch.callbacks.LearningRateMonitor", "lipnet.training.ProgressBar"):
        config.callbacks[name.rpartition(".")[2]] = {"_target_": name}
    config.logger = loggers
    if loggers == []:
        # Hydra composes `logger=[]` to a configuration without the key.
        del config.logger
    trainer = fit(config)
    assert trainer.loggers == []
    assert trainer.progress_bar_callback is None


def test_without_a_validation_the_last_state_is_certified(config: DictConfig, tmp_path: Path) -> None:
    config.trainer.check_val_every_n_epoch = 5
    config.callbacks.last = {"_target_": "lipnet.training.LastCheckpoint", "path": str(tmp_path / "last.ckpt")}
    trainer = fit(config)
    assert checkpoint_to_certify(trainer, tmp_path) == (tmp_path / "last.ckpt", None)
    assert load_checkpoint(tmp_path / "last.ckpt").dataset["name"] == "digits"


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


def test_a_notebook_composes_and_trains_without_hydras_main(tmp_path: Path) -> None:
    with initialize_config_module("lipnet.conf", version_base="1.3"):
        composed = compose("train", overrides=["experiment=quickstart", "debug=fast", f"paths.log_dir={tmp_path}"])
    trainer = make_trainer(composed)
    trainer.fit(make_module(composed, make_data(composed)), make_data(composed))
    assert Path(composed.paths.output_dir).parent == tmp_path / "notebook"
    assert composed.paths.output_dir == composed.paths.output_dir
