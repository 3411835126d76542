"""Run folders: their names, the checkpoint to resume from, and the lock of a running training."""

import atexit
import os
import shutil
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationResolutionError

from lipnet.certify.files import SUMMARY
from lipnet.models import CheckpointError
from lipnet.models.checkpoint import read_checkpoint
from lipnet.workflows import resolvers as resolvers  # registers them
from lipnet.workflows.newest import newest, start_of_run, start_of_sweep
from lipnet.workflows.transfer import starts_from

CHECKPOINTS = "checkpoints"
LAST, BEST = f"{CHECKPOINTS}/last.ckpt", f"{CHECKPOINTS}/best.ckpt"
LOCK = ".lock"
REQUEUED = "hpc_ckpt_*.ckpt"
# DataLoader workers of a killed run hold its lock until they notice, after at most 5 seconds.
_PATIENCE = 10.0


def run_folder(log_dir: str, task_name: str, ckpt_path: str | None, transfer: bool = False) -> str:
    """Return the folder of the run to resume, or a new folder log_dir/task_name/DATE_TIME.

    Args:
        log_dir: folder of all runs.
        task_name: name of this kind of run.
        ckpt_path: a checkpoint's path; ``"last"`` for the newest run of the task that has a last checkpoint; or None.
        transfer: True if ``ckpt_path`` may be a network to start from; the new run then has its own folder.
    """
    resumed = None if starts_from(ckpt_path, transfer) else checkpoint_to_resume(log_dir, task_name, ckpt_path)
    if resumed is not None and resumed.parent.name == CHECKPOINTS:
        return str(resumed.parent.parent)
    return str(_unused(Path(log_dir).expanduser() / task_name / _now()))


def sweep_folder(log_dir: str, task_name: str, ckpt_path: str | None) -> str:
    """Return the folder of a multirun: for ``ckpt_path=last`` that with the task's newest run, else a new one."""
    parent = Path(log_dir).expanduser() / task_name
    earlier = [*parent.glob("multirun_*")] if ckpt_path == "last" else []
    return str(newest(earlier, start_of_sweep) or _unused(parent / f"multirun_{_now()}"))


def output_folder(log_dir: str) -> str:
    """Return the folder of the present job: Hydra's, or without Hydra (in a notebook) one per process."""
    # `compose` in a notebook may initialise Hydra's configuration without a job.
    started = HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir")
    return HydraConfig.get().runtime.output_dir if started else _notebook_folder(log_dir)


@lru_cache
def _notebook_folder(log_dir: str) -> str:
    return run_folder(log_dir, "notebook", None)


def checkpoint_to_resume(log_dir: str, task_name: str, ckpt_path: str | None) -> Path | None:
    """Return the checkpoint that ``ckpt_path`` names, whether it exists or not, or None if ``"last"`` finds none.

    In a multirun, ``"last"`` is the last checkpoint of the job's own folder.

    Raises:
        ValueError: for ``"last"``, if several runs began at the latest time, or a run's record is damaged.
    """
    if ckpt_path is None:
        return None
    if ckpt_path != "last":
        return Path(ckpt_path).expanduser()
    if is_multirun():
        own = Path(HydraConfig.get().runtime.output_dir, LAST)
        return own if own.is_file() else None
    folder = Path(log_dir).expanduser() / task_name
    checkpoints = [*folder.glob(f"*/{LAST}"), *folder.glob(f"multirun_*/*/{LAST}")]
    return newest(checkpoints, lambda path: start_of_run(path.parents[1] / "run.json", path))


def resumption(ckpt_path: str | None, transfer: bool = False) -> str:
    """Return the subfolder for the settings of this start of a run: none for the first start, one per resumption."""
    first = ckpt_path is None or starts_from(ckpt_path, transfer)
    return "" if first and not is_requeued() else f"resumed_{_now()}"


def is_multirun() -> bool:
    """Return True in a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


class RunFolder(Callback):
    """Hydra callback that locks a run's folder, refuses one that holds other runs, and removes it if it stayed empty.

    The processes that a distributed training starts use the folder of the first one.
    """

    def __init__(self) -> None:
        self._unfinished: Path | None = None

    @rank_zero_only
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._claim(config, config.hydra.run, run_folder)

    @rank_zero_only
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._claim(config, config.hydra.sweep, sweep_folder)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        self._unfinished = None

    on_multirun_end = on_run_end

    def _claim(self, config: DictConfig, place: DictConfig, automatic: Callable[..., str]) -> None:
        """Make and lock a folder, and write its final name into the configuration.

        Args:
            config: the configuration of the command.
            place: ``hydra.run`` or ``hydra.sweep``, whose ``dir`` is the folder.
            automatic: the resolver that names the folder unless the user does.
        """
        try:
            folder = Path(place.dir).expanduser()
        except InterpolationResolutionError as error:
            self._refuse(str(error).splitlines()[0])
        stated = OmegaConf.to_container(place, resolve=False)["dir"]  # type: ignore[index, call-overload]
        if config.ckpt_path is None and str(stated).startswith(f"${{{automatic.__name__}:"):
            # Another command that started in the same second may have taken the name.
            while not _made(folder):
                folder = _unused(folder)
            new = True
        else:
            new = _made(folder)
        try:
            self._lock = FileLock(folder / LOCK)
            self._lock.acquire(timeout=0 if config.ckpt_path is None and not is_requeued() else _PATIENCE)
            check = check_unused if automatic is run_folder else check_unused_sweep
            check(folder, config)
        except Timeout:
            self._refuse(f"another training is running in {folder}: set another hydra.run.dir, or wait for its end")
        except (FileExistsError, CheckpointError) as error:
            self._refuse(str(error))
        with read_write(config):
            place.dir = str(folder)
        if new:
            self._unfinished = folder
            atexit.register(self._remove_empty)

    def _refuse(self, message: str) -> NoReturn:
        # Hydra only warns of exceptions in callbacks, but lets SystemExit through.
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)

    def _remove_empty(self) -> None:
        """Remove the folder of an unfinished run that left neither checkpoint, certificates, metrics nor record."""
        folder = self._unfinished
        if folder is None or file_of_run(folder, below=True) or [*folder.rglob("metrics.csv")]:
            return
        if not [*folder.rglob("run.json")]:
            shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> bool:
    """Make a folder, and return whether it was not there before."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def remove_unused(folder: Path) -> None:
    """Remove the folder that Hydra made for a command, unless it holds more than the command's configuration."""
    if folder.is_dir() and folder != Path.cwd() and {each.name for each in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder, ignore_errors=True)


def file_of_run(folder: Path, *, below: bool = False) -> Path | None:
    """Return a checkpoint or certificates of a run in a folder, or None; with ``below``, of runs at any depth."""
    search = folder.rglob if below else folder.glob
    return next(chain(*map(search, (f"{CHECKPOINTS}/*.ckpt", REQUEUED, SUMMARY))), None)


def check_unused(folder: Path, config: DictConfig) -> None:
    """Raise FileExistsError if a folder holds a run that this start does not resume."""
    if file_of_run(folder) is None or is_requeued():
        return
    transfer = bool(config.get("transfer", False))
    resumed = checkpoint_to_resume(config.paths.log_dir, config.task_name, config.ckpt_path)
    if resumed is not None and not starts_from(resumed, transfer) and folder.resolve() in resumed.resolve().parents:
        return
    latest = newest_checkpoint(folder, folder) or folder / LAST
    raise FileExistsError(
        f"{folder} holds a run already: resume it with ckpt_path={latest}, or set another hydra.run.dir"
    )


def check_unused_sweep(folder: Path, config: DictConfig) -> None:
    """Raise FileExistsError if a multirun's folder holds runs that this start does not resume."""
    file = file_of_run(folder, below=True)
    if file is not None and config.ckpt_path != "last" and not is_requeued():
        raise FileExistsError(
            f"{folder} holds runs already, got {file}: resume them with ckpt_path=last, or set another hydra.sweep.dir"
        )


def newest_checkpoint(folder: Path, requeue_folder: str | Path) -> Path | None:
    """Return the checkpoint of a run with the most steps, or None if there is none.

    Args:
        folder: the run's folder.
        requeue_folder: where Lightning writes a checkpoint before it requeues a job.
    """
    # Lightning increases the number with each requeue.
    requeued = sorted(Path(requeue_folder).glob(REQUEUED), key=lambda path: (len(path.name), path.name))
    found = [path for path in (folder / LAST, *requeued[-1:]) if path.is_file()]
    if len(found) < 2:
        return next(iter(found), None)
    return max(found, key=lambda path: read_checkpoint(path)[0].get("global_step", 0))


def is_requeued() -> bool:
    """Return True if Slurm has requeued this job, which then resumes its run with the first start's command."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _unused(folder: Path) -> Path:
    """Return the given folder if it does not exist yet, or else its name with the first free number."""
    names = chain([folder.name], (f"{folder.name}_{number}" for number in count(2)))
    return next(free for name in names if not (free := folder.with_name(name)).exists())
