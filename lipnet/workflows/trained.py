"""Steps after a training: choose the checkpoint to certify, and log its certificates."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from lipnet.training import LastCheckpoint, certified_accuracy_key
from lipnet.training.last_checkpoint import UNFINISHED
from lipnet.training.requeue import SafeRequeue
from lipnet.workflows.folders import LAST


def best_checkpoint(trainer: Trainer) -> tuple[Path, float] | None:
    """Return the best checkpoint and its validation score, or None if no validation chose one.

    A higher score is better, as hyperparameter searches need it: of a loss, it is the negative.
    """
    keeper = trainer.checkpoint_callback
    if not isinstance(keeper, ModelCheckpoint) or not keeper.best_model_path or keeper.best_model_score is None:
        return None
    score = float(keeper.best_model_score)
    return Path(keeper.best_model_path), score if keeper.mode == "max" else -score


def checkpoint_to_certify(trainer: Trainer, folder: str | Path) -> tuple[Path, float | None]:
    """Return the best checkpoint and its score, or the last state and None if no validation chose one.

    If there is no checkpoint at all, all processes together save the present state. A training that ended within an
    epoch cannot be resumed exactly from it.
    """
    best = best_checkpoint(trainer)
    if best is not None:
        return best
    paths = [keeper.path for keeper in trainer.checkpoint_callbacks if isinstance(keeper, LastCheckpoint)]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        path = Path(folder, LAST)
        trainer.save_checkpoint(path)
    return path, None


def end_distributed() -> None:
    """Leave the process group of a distributed training, so that the first process can certify alone.

    Metrics wait for all processes of the group, but the others have already ended.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def resumable_on_signals(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Exit on SIGTERM, and on Slurm's signal for a requeue after requesting it, as a training does.

    The exit status is `UNFINISHED` if the run's folder has the checkpoint to resume from, else 128 plus the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python allows only the main thread to handle signals.
        yield
        return
    environment: Any = trainer._accelerator_connector.cluster_environment
    requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    requeue_signal = environment.requeue_signal if requeues else None

    def end(number: int, frame: FrameType | None) -> NoReturn:
        if not Path(folder, LAST).is_file():
            sys.exit(128 + number)
        if number == requeue_signal and trainer.is_global_zero:
            _requeue()
        sys.exit(UNFINISHED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, requeue_signal) if number is not None}
    try:
        receivers = [each for each in trainer.callbacks if isinstance(each, SafeRequeue)]  # type: ignore[attr-defined]
        if requeue_signal is not None and any(requeue_signal in each.waiting for each in receivers):
            # It came at the end of the training, too late for an answer there.
            end(requeue_signal, None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _requeue() -> None:
    """Ask Slurm to start this job again. Lightning's own function for it would also save the trained state."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scontrol", "requeue", job], check=False)


@rank_zero_only
def log_certificates(trainer: Trainer, summary: Mapping[str, Any], curve: Path) -> None:
    """Give the figures of the certificates to the loggers, and the plot of the curve to loggers that accept images."""
    names = ("clean_accuracy", "average_certified_radius", "lipschitz_bound")
    figures = {f"certificates/{name}": summary[name] for name in names if summary[name] is not None}
    for radius, share in summary["certified_accuracy"].items():
        figures[certified_accuracy_key(radius, "certificates")] = share
    for logger in trainer.loggers:
        logger.log_metrics(figures, trainer.global_step)
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_image"):
            logger.log_image("certificates/curve", [str(curve)])
        elif hasattr(experiment, "add_image"):
            from matplotlib import image

            pixels = image.imread(curve)[..., :3]
            experiment.add_image("certificates/curve", pixels, trainer.global_step, dataformats="HWC")
        elif hasattr(experiment, "log_artifact"):
            experiment.log_artifact(logger.run_id, str(curve))  # type: ignore[attr-defined]
        logger.finalize("success")
