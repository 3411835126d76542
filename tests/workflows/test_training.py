"""The parts of a training, made from a configuration, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lipnet.data import CIFAR100DataModule, DigitsDataModule
from lipnet.models import CheckpointError, save_checkpoint
from lipnet.training import WholeCheckpointIO
from lipnet.workflows.trained import best_checkpoint
from lipnet.workflows.training import (
    check_certification,
    make_data,
    make_module,
    make_trainer,
    model_config,
    resume_path,
)
from tests.fake_images import CLASSES, write_class
from tests.workflows.runs import fit, seeded_module


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


def test_a_new_training_does_not_resume_the_requeued_job_of_another(
    config: DictConfig, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would resume it under Slurm if it is given no checkpoint."""
    requeued = tmp_path / "shared" / "hpc_ckpt_1.ckpt"
    requeued.parent.mkdir()
    shutil.copy(tiny_checkpoint, requeued)
    config.trainer.default_root_dir = str(requeued.parent)
    with pytest.raises(FileExistsError, match=r"default_root_dir must hold no checkpoint of another run.*hpc_ckpt_1"):
        resume_path(config, seeded_module(config))
    config.ckpt_path = str(tiny_checkpoint)
    assert resume_path(config, seeded_module(config)) == tiny_checkpoint
    # Without a setting, Lightning writes and finds it in the working folder.
    config.trainer.default_root_dir = None
    monkeypatch.chdir(requeued.parent)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resume_path(config, seeded_module(config)) == requeued


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
        ({"trainer": {"max_steps": 0}}, r"trainer\.max_steps must be positive, or -1 for no limit, got 0"),
        ({"trainer": {"limit_train_batches": 0}}, r"limit_train_batches must be positive, or null for no limit, got 0"),
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


def test_a_notebook_composes_and_trains_without_hydras_main(tmp_path: Path) -> None:
    with initialize_config_module("lipnet.conf", version_base="1.3"):
        composed = compose("train", overrides=["experiment=quickstart", "debug=fast", f"paths.log_dir={tmp_path}"])
    trainer = make_trainer(composed)
    trainer.fit(make_module(composed, make_data(composed)), make_data(composed))
    assert Path(composed.paths.output_dir).parent == tmp_path / "notebook"
    assert composed.paths.output_dir == composed.paths.output_dir
