"""The record of a run: on what, from which commit and for how long it was trained, over all its starts."""

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


class RunRecord(Callback):
    """Writes a JSON file that says what figures alone do not: seed, progress, wall time, commit, versions, hardware.

    The file is replaced as a whole at the start, after every validation and epoch, and at the end. A resumed training
    adds a start to it, so that the time is that of all starts together; what a killed process did after its last
    writing is not in it. A fast development run writes nothing.

    Keys: ``seed``; ``epochs`` and ``steps`` that are done; ``planned_epochs``, None where a time is the plan;
    ``finished``, whether the training came to its end; ``seconds``, training and validation of all starts; ``starts``,
    each with ``began``, ``seconds``, ``first_step``, ``commit``, ``versions`` and ``hardware``.

    Args:
        path: the file.
        seed: of the run.
    """

    def __init__(self, path: str | Path, seed: int | None = None) -> None:
        self.path, self.seed = Path(path), seed
        self._began = monotonic()
        self._starts: list[dict[str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._began = monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        earlier = self.path.is_file() and trainer.ckpt_path is not None
        self._starts = json.loads(self.path.read_text())["starts"] if earlier else []
        self._starts.append(
            {
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": 0.0,
                "first_step": trainer.global_step,
                "commit": commit(),
                "versions": _versions(),
                "hardware": {**hardware(trainer.strategy.root_device), "processes": trainer.world_size},
            }
        )
        self._write(trainer, finished=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer, finished=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, finished=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
            "epochs": trainer.fit_loop.epoch_progress.current.completed,
            "planned_epochs": None if planned is None or planned < 0 else planned,
            "steps": trainer.global_step,
            "seconds": round(sum(start["seconds"] for start in self._starts), 1),
            "starts": self._starts,
        }
        with atomic_write(self.path) as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")


def commit() -> str | None:
    """The commit of the checkout that lipnet is imported from, ``-dirty`` if files differ from it; None without one."""
    root = Path(lipnet.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        names = [_git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")]
    except (OSError, subprocess.CalledProcessError):
        # Without git, or in a checkout of somebody else's, the commit is not known.
        return None
    return f"{names[0]}-dirty" if names[1] else names[0]


def hardware(device: torch.device) -> dict[str, Any]:
    """What a process on this device computes with: processor, its usable cores, torch's threads, accelerator."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "accelerator": _accelerator(device),
    }


def processor() -> str:
    """The processor's name, which Linux says in a file alone."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _accelerator(device: torch.device) -> str | None:
    if device.type == "cpu":
        return None
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(device)) if name is not None else device.type


def _versions() -> dict[str, str]:
    return {
        "lipnet": lipnet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
