"""Callback that records a run: seed, progress, time, commit, versions and hardware, over all its starts."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

import lipnet
from lipnet.files import atomic_write
from lipnet.training.distillation import Distillation


class RunRecord(Callback):
    """Callback that writes run.json: seed, progress, wall time, commit, versions and hardware.

    The file is replaced atomically at the start, after every validation and epoch, and at the end. A resumed training
    appends a start, so that the time covers all starts. Work of a killed process after its last update of the file does
    not count. A fast development run writes nothing.

    Keys: ``seed``; ``epochs`` and ``steps`` done; ``planned_epochs``, None without ``max_epochs``; ``finished``;
    ``seconds`` of training and validation over all starts; ``starts``, each with ``began``, ``seconds``,
    ``first_step``, ``commit``, ``versions``, ``hardware`` and ``precision``; with a teacher, ``teacher``: the
    ``sha256`` of its weights and the record of its ``run``, None if it is unknown.

    Args:
        path: the file.
        seed: the run's seed.

    Raises:
        ValueError: on resuming, for a damaged file.
    """

    def __init__(self, path: str | Path, seed: int | None = None) -> None:
        self.path, self.seed = Path(path), seed
        self._began = monotonic()
        self._starts: list[dict[str, Any]] = []
        self._earlier: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._began = monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        earlier = self.path.is_file() and trainer.ckpt_path is not None
        self._earlier, self._starts = read_starts(self.path) if earlier else [], []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._starts = self._earlier
        self._starts.append(
            {
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": 0.0,
                "first_step": trainer.global_step,
                "commit": commit(),
                "versions": {"python": platform.python_version()}
                | {package.__name__: package.__version__ for package in (lipnet, torch, lightning)},
                "hardware": {**hardware(trainer.strategy.root_device), "processes": trainer.world_size},
                "precision": str(trainer.precision),
            }
        )
        self._write(trainer, finished=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._write(trainer, finished=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning skips a resumed training that has nothing left to do, and with it the hooks above.
        if self._earlier and not self._starts and not json.loads(self.path.read_text())["finished"]:
            self.on_train_start(trainer, pl_module)
            self._write(trainer, finished=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._starts:
            self._write(trainer, finished=False)

    def _write(self, trainer: Trainer, finished: bool) -> None:
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        self._starts[-1]["seconds"] = round(monotonic() - self._began, 1)
        planned = trainer.max_epochs
        record = {
            "seed": self.seed,
            "finished": finished,
            "epochs": trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            "planned_epochs": None if planned is None or planned < 0 else planned,
            "steps": trainer.global_step,
            "seconds": round(sum(start["seconds"] for start in self._starts), 1),
            "starts": self._starts,
        }
        distillation: Distillation | None = getattr(trainer.lightning_module, "distillation", None)
        if distillation is not None:
            record["teacher"] = {"sha256": distillation.sha256, "run": distillation.run}
        with atomic_write(self.path) as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Return the starts that a run.json lists; raise ValueError if the file is damaged."""
    try:
        starts = json.loads(path.read_text())["starts"]
        if not all(isinstance(start["began"], str) and start["seconds"] >= 0 for start in starts):
            raise ValueError(f"a start needs 'began' and 'seconds', got {starts}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}; remove it to resume with a new record") from error
    return list(starts)


def commit() -> str | None:
    """Return the commit of lipnet's checkout, with ``-dirty`` if files differ from it; None without a checkout."""
    root = Path(lipnet.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        # Without git, or in a checkout that another user owns, the commit is unknown.
        return None


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe the hardware of a process: processor, usable cores, torch's threads, accelerator."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = None
    if device.type != "cpu":
        name = getattr(torch.get_device_module(device), "get_device_name", None)
        accelerator = device.type if name is None else str(name(device))
    threads = torch.get_num_threads()
    return {"processor": processor(), "cores": usable, "threads": threads, "accelerator": accelerator}


def processor() -> str:
    """Return the processor's name. Linux only gives it in a file."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
