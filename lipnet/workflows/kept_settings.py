"""Settings that a resumed training must share with its checkpoint."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from lipnet.training.differences import differences
from lipnet.training.equal_processes import check_equal

# Groups and settings that decide what a training computes. Others have their own checks: model and dataset by
# `lipnet.workflows.training.resume_path`, the optimizer by `lipnet.training.ExactResumption`.
_GROUPS = ("seed", "loss", "scheduler", "data", "compile", "callbacks.ema", "callbacks.batch_warmup")
_SHARED = ("optimizer", "lookahead", "bias_lr_factor", "manifold_lr", "trainer", "radii", "transfer")
_TRAINER = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "limit_train_batches")
# Settings that change where images come from and how fast, but not which ones.
_FREE = ("data_dir", "default_root_dir", "download", "eval_batch_size", "loader", "num_workers", "path", "pin_memory")


class KeptSettings(Callback):
    """Callback that stores settings of a training in its checkpoints, and compares its processes.

    `check_kept_settings` refuses to resume with other settings.

    Args:
        config: configuration of the training.
        precision: the trainer's precision.

    Raises:
        ValueError: in every process of a training, if the settings of one differ from those of the first.
    """

    def __init__(self, config: DictConfig, precision: Any) -> None:
        self.settings = kept_settings(config, precision)
        self.shared = self.settings | dict(_settings_of(config, _SHARED))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_equal(trainer, self.shared)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.settings)


def kept_settings(config: DictConfig, precision: Any) -> dict[str, Any]:
    """Return the settings that a resumed training must share, by their names on the command line.

    Args:
        config: configuration of the training.
        precision: the trainer's precision, which ``trainer.precision=auto`` leaves open.
    """
    names = (*_GROUPS, *(f"trainer.{each}" for each in _TRAINER))
    return {"trainer.precision": str(precision), **dict(_settings_of(config, names))}


def check_kept_settings(checkpoint: Mapping[str, Any], path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to resume a checkpoint with other settings. One that does not state them is accepted.

    Args:
        checkpoint: content of the checkpoint.
        path: its file.
        settings: as `kept_settings` returns them.

    Raises:
        ValueError: for each setting that differs.
    """
    stated = checkpoint.get("callbacks", {}).get(KeptSettings.__qualname__)
    if stated is None:
        return
    values = differences(stated, settings, ("in the checkpoint", "here"))
    if values:
        raise ValueError(
            f"{path} cannot be resumed: a resumed training keeps its settings, got {values}: resume with the "
            "checkpoint's settings, or start a new run"
        )


def _settings_of(config: DictConfig, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = OmegaConf.select(config, name)
        yield from _flat(name, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested dicts by dotted names; null is left out, as if the setting did not exist."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in _FREE:
                yield from _flat(f"{name}.{key}", each)
    elif value is not None:
        yield name, value
