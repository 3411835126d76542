"""Settings that a resumed training must share with its checkpoint: all that a training reads, but for `FREE`."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict

from lipnet.training.differences import differences
from lipnet.training.equal_processes import check_equal
from lipnet.workflows.unread import TRAINING

FREE = (
    # Names, places, display and storage.
    *("task_name", "ckpt_path", "paths", "logger", "trust", "trainer.default_root_dir", "trainer.enable_*"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.detect_anomaly", "callbacks.best_checkpoint.dirpath"),
    *("callbacks.last_checkpoint", "callbacks.run_record", "callbacks.learning_rate", "callbacks.progress_bar"),
    *("callbacks.epoch_log", "callbacks.model_summary"),
    # Where images and the teacher come from, and how fast. `lipnet.training.ExactResumption` compares the content of
    # extra images and of the teacher.
    *("data.data_dir", "data.extra.path", "data.download", "data.eval_batch_size", "data.loader", "data.num_workers"),
    "data.pin_memory",
    "distillation.teacher",
    # Devices. `ExactResumption` compares the number of processes.
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    # The length. `ExactResumption` compares it if the loss or the schedule depends on it.
    *("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.min_epochs", "trainer.min_steps"),
    # Figures that choose no checkpoint.
    *(
        "radii",
        "certify",
        "trainer.num_sanity_val_steps",
        "trainer.limit_test_batches",
        "trainer.limit_predict_batches",
    ),
    # `lipnet.workflows.training.resume_path` compares the model with the checkpoint's description.
    "model",
)
"""Names and patterns of settings that a resumed training may change, each with all settings below it."""


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
        # Processes also need the same length, devices and figures.
        more = _settings_of(config, ("trainer", "radii"), free=("trainer.default_root_dir",))
        self.shared = {**dict(more), **self.settings}

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
    return {**dict(_settings_of(config, TRAINING, FREE)), "trainer.precision": str(precision)}


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


def _settings_of(config: DictConfig, names: Iterable[str], free: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield settings and all below them, but for the free ones; of places below ``paths``, their names."""
    config = config.copy()
    with open_dict(config):
        config.paths = {name: f"paths.{name}" for name in config.get("paths") or {}}
    for name in names:
        if not _is_among(name, free):
            value = OmegaConf.select(config, name)
            plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            yield from _flat(name, plain, tuple(free))


def _flat(name: str, value: Any, free: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested dicts by dotted names; null is left out, as if the setting did not exist."""
    if _is_among(name, free):
        return
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}", each, free)
    elif value is not None:
        yield name, value


def _is_among(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a setting, or one that it is below, has one of these names."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)
