"""The parts of a training, made from its configuration."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from lipnet.data import DatasetSpec, ImageDataModule
from lipnet.models import load_base, load_checkpoint
from lipnet.models.checkpoint import DESCRIPTION, read_checkpoint
from lipnet.training import CertifiedClassifier
from lipnet.workflows.folders import LAST, checkpoint_to_resume
from lipnet.workflows.transfer import starts_from, transferred_config


def make_data(config: DictConfig) -> ImageDataModule:
    """The data module of the group ``data``."""
    data: ImageDataModule = instantiate(config.data)
    return data


def make_module(config: DictConfig, data: ImageDataModule) -> CertifiedClassifier:
    """The LightningModule: the model of the group ``model`` on these data, with loss, optimizer and schedule.

    In a transfer it is the network of ``ckpt_path``, with its weights, adapted to these data.
    """
    transfer = _is_transfer(config)
    path = checkpoint_to_resume(config.paths.log_dir, config.task_name, config.ckpt_path)
    module = CertifiedClassifier(
        model=transferred_config(config, path, data.spec) if transfer else model_config(config, data.spec),
        dataset={"name": data.spec.name, "seed": data.seed, "validation_fraction": data.validation_fraction},
        num_classes=data.spec.num_classes,
        loss=instantiate(config.loss),
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler),
        radii=list(config.radii),
        compile_mode=config.get("compile"),
    )
    if path is not None and starts_from(path, transfer):
        load_base(module.model, load_checkpoint(path).model.state_dict())
    return module


def make_trainer(config: DictConfig) -> Trainer:
    """The Trainer of the group ``trainer``, with the callbacks and loggers of their groups that are not null."""
    _quieten_lightning()
    callbacks: list[Callback] = [instantiate(each) for each in (config.callbacks or {}).values() if each is not None]
    loggers: list[Logger] = [instantiate(each) for each in (config.logger or {}).values() if each is not None]
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    return trainer


def resume_path(config: DictConfig, module: CertifiedClassifier) -> Path | None:
    """The checkpoint to go on from, checked to be one of the same model and data; None for a new training or transfer.

    Raises:
        FileNotFoundError: if it does not exist, or ``ckpt_path=last`` finds no run to go on with.
        ValueError: if it is damaged, or of another model or other data.
    """
    path = checkpoint_to_resume(config.paths.log_dir, config.task_name, config.ckpt_path)
    if path is None:
        if config.ckpt_path is not None:
            folder = Path(config.paths.log_dir, config.task_name).absolute()
            raise FileNotFoundError(f"ckpt_path=last: no run in {folder} has {LAST}")
        return None
    if starts_from(path, _is_transfer(config)):
        return None
    description = read_checkpoint(path)[0][DESCRIPTION]
    for part in ("model", "dataset"):
        differing = _differences(description[part], module.description[part])
        if differing:
            raise ValueError(f"{path} cannot be resumed: its {part} differs from this run's in {differing}")
    return path


def best_checkpoint(trainer: Trainer) -> tuple[Path, float] | None:
    """The best checkpoint and its validation score; None if the run kept none, as in a fast development run."""
    keeper = trainer.checkpoint_callback
    if not isinstance(keeper, ModelCheckpoint) or not keeper.best_model_path or keeper.best_model_score is None:
        return None
    return Path(keeper.best_model_path), float(keeper.best_model_score)


def _is_transfer(config: DictConfig) -> bool:
    return bool(config.get("transfer", False))


def _quieten_lightning() -> None:
    """Keep an advertisement, and a warning about Lightning's own use of torch, out of every run's output."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", module="lightning")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def model_config(config: DictConfig, spec: DatasetSpec) -> dict[str, Any]:
    """The configuration of the model as plain containers, for these data.

    What the data determine (classes, channels, image size, mean, std) goes into it, unless it is stated there.
    """
    stated = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(stated, dict)
    determined = {
        "num_classes": spec.num_classes,
        "in_channels": spec.in_channels,
        "image_size": spec.image_size,
        "mean": list(spec.mean),
        "std": spec.std,
    }
    return {**determined, **{str(key): value for key, value in stated.items()}}


def _differences(checkpoint: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*checkpoint, *run} if checkpoint.get(key) != run.get(key))
    return "; ".join(f"{key}: {checkpoint.get(key)} in the checkpoint, {run.get(key)} here" for key in keys)
