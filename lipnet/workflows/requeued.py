"""Checkpoints that Lightning writes before Slurm requeues a job."""

from pathlib import Path

from omegaconf import DictConfig

from lipnet.files import resolve_path
from lipnet.workflows.folders import REQUEUED, is_requeued, newest_checkpoint


def check_not_requeued(config: DictConfig) -> None:
    """Raise FileExistsError if Lightning would resume a requeued job's checkpoint in a training that resumes nothing.

    Under Slurm, Lightning takes the newest one in ``trainer.default_root_dir``, whichever run it is of.
    """
    file = next(_requeue_folder(config).glob(REQUEUED), None)
    if file is not None:
        raise FileExistsError(
            "trainer.default_root_dir must hold no checkpoint of another run, which Lightning resumes under Slurm, got "
            f"{file}: set another folder, or move the file"
        )


def requeued_checkpoint(config: DictConfig) -> Path | None:
    """Return the newest checkpoint of the run's folder if Slurm has requeued this job, else None."""
    return newest_checkpoint(Path(config.paths.output_dir), _requeue_folder(config)) if is_requeued() else None


def _requeue_folder(config: DictConfig) -> Path:
    """Return the folder in which Lightning writes a checkpoint before it requeues a job."""
    return resolve_path(config.trainer.get("default_root_dir") or "")
