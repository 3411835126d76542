"""Where a run keeps its files: a new folder, or that of the run which it resumes."""

import os
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from lipnet.workflows.transfer import starts_from

CHECKPOINTS = "checkpoints"
LAST = f"{CHECKPOINTS}/last.ckpt"


def run_folder(log_dir: str, task_name: str, ckpt_path: str | None, transfer: bool = False) -> str:
    """The folder of a run: log_dir/task_name/DATE_TIME, or the folder of the run that ``ckpt_path`` goes on with.

    Args:
        log_dir: where all runs are.
        task_name: what this run is about.
        ckpt_path: None; ``"last"`` for the newest run of the task that has a last checkpoint; or a checkpoint's path.
        transfer: whether ``ckpt_path`` may be a network that another run starts from, in a folder of its own.
    """
    resumed = None if starts_from(ckpt_path, transfer) else checkpoint_to_resume(log_dir, task_name, ckpt_path)
    if resumed is not None and resumed.parent.name == CHECKPOINTS:
        return str(resumed.parent.parent)
    return str(Path(log_dir) / task_name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def checkpoint_to_resume(log_dir: str, task_name: str, ckpt_path: str | None) -> Path | None:
    """The checkpoint that ``ckpt_path`` means, whether it exists or not; None if there is none to be found."""
    if ckpt_path is None:
        return None
    if ckpt_path != "last":
        return Path(ckpt_path)
    checkpoints = sorted(Path(log_dir, task_name).glob(f"*/{LAST}"))
    return checkpoints[-1] if checkpoints else None


def resumption(ckpt_path: str | None, transfer: bool = False) -> str:
    """The subfolder for what each start of a run writes for itself: none for the first, one for every resumption.

    A job that Slurm has requeued is resumed, though its command is that of the first start.
    """
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    first = ckpt_path is None or starts_from(ckpt_path, transfer)
    return "" if first and not requeued else f"resumed_{datetime.now().strftime('%Y-%m-%d_%H-%M-%S')}"


# Cached: the time of day is asked for once in a process, however often the folder is.
OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)
OmegaConf.register_new_resolver("resumption", resumption, replace=True, use_cache=True)
