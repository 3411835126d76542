"""Parts of a training: built from its configuration, and checked before it starts."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lipnet.data import DatasetSpec, ImageDataModule
from lipnet.data.fingerprint import comparable
from lipnet.functional.autocast import multiplies_bfloat16_fast
from lipnet.models import load_base, load_checkpoint
from lipnet.models.build import with_defaults
from lipnet.models.checkpoint import DESCRIPTION, read_checkpoint
from lipnet.training import CertifiedClassifier, ModuleOptimizer
from lipnet.training.differences import differences
from lipnet.workflows.certification import DTYPES
from lipnet.workflows.devices import device_of
from lipnet.workflows.distillation import make_distillation
from lipnet.workflows.folders import LAST, checkpoint_to_resume, is_multirun
from lipnet.workflows.kept_settings import KeptSettings, check_kept_settings, kept_settings
from lipnet.workflows.reporting import check_report
from lipnet.workflows.requeued import check_not_requeued, requeued_checkpoint
from lipnet.workflows.settings import check_number, check_numbers
from lipnet.workflows.transfer import check_unseen, starts_from, transferred_config
from lipnet.workflows.unread import check_certify_settings


def make_data(config: DictConfig) -> ImageDataModule:
    """Return the data module of the group ``data``."""
    data: ImageDataModule = instantiate(config.data)
    return data


def make_module(config: DictConfig, data: ImageDataModule) -> CertifiedClassifier:
    """Return the LightningModule: the model for these data, with loss, optimizer and schedule.

    In a transfer the model is the network of ``ckpt_path``, with its weights, adapted to these data. A network that may
    have been trained on their validation or test images is a ValueError.
    """
    transfer = _is_transfer(config)
    path = checkpoint_to_resume(config.paths.log_dir, config.task_name, config.ckpt_path)
    module = CertifiedClassifier(
        model=transferred_config(config, path, data.spec) if transfer else model_config(config, data.spec),
        dataset=data.description(),
        num_classes=data.num_classes,
        loss=instantiate(config.loss),
        distillation=make_distillation(config.get("distillation"), data, config.get("trust", ())),
        optimizer=make_optimizer(config),
        scheduler=instantiate(config.scheduler),
        radii=list(config.radii),
        compile_mode=config.get("compile"),
        trust=config.get("trust", ()),
    )
    if path is not None and starts_from(path, transfer):
        base = load_checkpoint(path)
        check_unseen(data, base.dataset, path)
        load_base(module.model, base.model.state_dict())
    return module


def make_optimizer(config: DictConfig) -> ModuleOptimizer:
    """Return the optimizer's factory: the group ``optimizer``, learning rates by kind of parameter, and Lookahead."""
    return ModuleOptimizer(
        instantiate(config.optimizer),
        bias_lr_factor=config.get("bias_lr_factor", 1.0),
        manifold_lr=config.get("manifold_lr", 1e-3),
        lookahead=instantiate(config.get("lookahead")),
    )


def make_trainer(config: DictConfig) -> Trainer:
    """Return the Trainer of the group ``trainer``, with the callbacks and loggers of their groups that are not null.

    The progress bar is left out if ``trainer.enable_progress_bar`` is false, and the monitor of the learning rate if
    there is no logger.
    """
    # Suppress advertisements, lines about absent hardware, and warnings about what is no fault: Lightning's use of
    # torch, epochs of few batches (figures of epochs are logged anyway), and the folder of a resumed run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_worth_reading)
    for message in ("LeafSpec", "smaller than the logging interval", "Checkpoint directory .* exists and is not empty"):
        warnings.filterwarnings("ignore", message=f".*{message}.*", module="lightning")
    # `logger=[]` composes to a configuration without the key.
    callbacks, loggers = (
        [instantiate(each) for each in dict(config.get(group) or {}).values() if each is not None]
        for group in ("callbacks", "logger")
    )
    left_out: tuple[type[Callback], ...] = () if config.trainer.get("enable_progress_bar", True) else (ProgressBar,)
    left_out += () if loggers else (LearningRateMonitor,)
    callbacks = [each for each in callbacks if not isinstance(each, left_out)]
    max_time = config.trainer.get("max_time")
    if isinstance(max_time, int | float):
        raise ValueError(
            f"trainer.max_time must be text, DD:HH:MM:SS, got the number {max_time}: quote it, since YAML reads "
            "1:00:00:00 as a number"
        )
    precision = _precision(config)
    callbacks.append(KeptSettings(config, precision))
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers, precision=precision)
    return trainer


def _precision(config: DictConfig) -> Any:
    """Return ``trainer.precision``: for ``auto``, bf16-mixed on a device that multiplies bfloat16."""
    precision = config.trainer.get("precision")
    if precision != "auto":
        return precision
    gpu = config.trainer.get("accelerator") != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if multiplies_bfloat16_fast(torch.device("cuda" if gpu else "cpu")) else "32-true"


def check_settings(config: DictConfig) -> None:
    """Check the types of numeric settings before anything is built from them.

    The model is left out: `lipnet.models.build_model` decides which targets it may import, and its parts check their
    own arguments.

    Raises:
        ValueError: as `check_number`, for instance for text in place of a number; for a cosine schedule of no length.
    """
    for name, kind in (("seed", int), ("transfer", bool), ("bias_lr_factor", float), ("manifold_lr", float)):
        check_number(name, config[name], kind)
    if config.certify is not None:
        check_certify_settings(config.certify)
        settings: Any = OmegaConf.to_container(config.certify, resolve=True)
        check_numbers({"_target_": "lipnet.workflows.certify_checkpoint", **settings}, "certify")
    # The trainer comes first: other groups refer to its settings, and an error should name the setting itself.
    for group in ("trainer", "data", "loss", "optimizer", "lookahead", "scheduler", "callbacks", "logger"):
        if config.get(group) is not None:
            check_numbers(OmegaConf.to_container(config[group], resolve=True), group)
    epochs = OmegaConf.select(config, "scheduler.T_max")
    if isinstance(epochs, int) and epochs < 1:
        raise ValueError(
            f"scheduler.T_max must be at least 1, got {epochs}: set trainer.max_epochs, or use "
            "scheduler=timed_one_cycle"
        )


def check_certification(config: DictConfig) -> None:
    """Check, before the first epoch, the settings and data of the certification after the last one.

    Raises:
        FileNotFoundError: for missing test data.
        IsADirectoryError: if a folder is in the place of the report.
        ValueError: for a setting of ``certify`` out of range, empty test data, and a training that will have nothing to
            certify.
    """
    for name, unlimited in (("max_epochs", "-1"), ("max_steps", "-1"), ("limit_train_batches", "null")):
        if config.trainer.get(name) == 0:
            raise ValueError(f"trainer.{name} must be positive, or {unlimited} for no limit, got 0: nothing to train")
    settings = config.certify
    if settings is None:
        return
    if config.trainer.get("fast_dev_run"):
        raise ValueError("trainer.fast_dev_run keeps no checkpoint to certify: set certify=null, or use debug=fast")
    if settings.dtype not in DTYPES:
        raise ValueError(f"certify.dtype must be one of {', '.join(DTYPES)}, got {settings.dtype!r}")
    if settings.batch_size < 1:
        raise ValueError(f"certify.batch_size must be at least 1, got {settings.batch_size}")
    device_of(settings.device)
    check_report(settings.get("report"), Path(config.paths.output_dir), replace=True)
    count = len(make_data(config).evaluation_dataset(settings.split))
    if not 1 <= (count if settings.n_samples is None else settings.n_samples) <= count:
        raise ValueError(
            f"certify.n_samples must be from 1 to {count}, the size of the {settings.split} split, or null, got "
            f"{settings.n_samples}"
        )


def resume_path(config: DictConfig, module: CertifiedClassifier) -> Path | None:
    """Return the checkpoint to resume, after checking its model, data and settings; None if nothing is resumed.

    A job that Slurm has requeued resumes the newest checkpoint of its folder, whatever ``ckpt_path`` is.

    Raises:
        FileExistsError: as `check_not_requeued`.
        FileNotFoundError: if it does not exist, or ``ckpt_path=last`` finds no run to resume.
        ValueError: if it is damaged, or is of another model, other data, or a training with other settings.
    """
    requeued = requeued_checkpoint(config)
    path = requeued or checkpoint_to_resume(config.paths.log_dir, config.task_name, config.ckpt_path)
    # Resuming a sweep also starts the jobs that have not run yet.
    if path is None and config.ckpt_path is not None and not is_multirun():
        folder = Path(config.paths.log_dir, config.task_name).expanduser().absolute()
        raise FileNotFoundError(f"ckpt_path=last: no run in {folder} has {LAST}")
    if path is None or (requeued is None and starts_from(path, _is_transfer(config))):
        check_not_requeued(config)
        return None
    content = read_checkpoint(path)[0]
    description = content[DESCRIPTION]
    assert module.description is not None
    there, here, trust = description["model"], module.description["model"], config.get("trust", ())
    compared = {
        "model": (with_defaults(there, here, trust), with_defaults(here, there, trust)),
        "dataset": (description["dataset"], comparable(module.description["dataset"], description["dataset"])),
    }
    for part, both in compared.items():
        values = differences(*both, ("in the checkpoint", "here"))
        if values:
            raise ValueError(f"{path} cannot be resumed: its {part} differs from this run's in {values}")
    check_kept_settings(content, path, kept_settings(config, _precision(config)))
    return path


@rank_zero_only
def log_configuration(trainer: Trainer, config: DictConfig) -> None:
    """Give the resolved configuration to the loggers as hyperparameters."""
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def model_config(config: DictConfig, spec: DatasetSpec) -> dict[str, Any]:
    """Return the model's configuration for these data as plain containers.

    The data determine the number of classes, channels, image size, mean and std that the configuration leaves open.
    """
    stated = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(stated, dict)
    determined = {name: getattr(spec, name) for name in ("num_classes", "in_channels", "image_size", "mean", "std")}
    return {**determined, "mean": list(spec.mean), **{str(key): value for key, value in stated.items()}}


def _is_transfer(config: DictConfig) -> bool:
    return bool(config.get("transfer", False))


_NOISE = (
    "\N{ELECTRIC LIGHT BULB} Tip: ",
    "GPU available: False",
    "TPU available: False",
    "HPU available: False",
    "`Trainer.fit` stopped: `max_epochs=",
)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE)
