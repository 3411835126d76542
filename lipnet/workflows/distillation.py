"""The teacher of a training: read from its checkpoint, and checked against the data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipnet.data import ImageDataModule
from lipnet.models import load_checkpoint
from lipnet.training import Distillation
from lipnet.training.run_record import read_starts
from lipnet.workflows.certification import checkpoint_path
from lipnet.workflows.folders import CHECKPOINTS
from lipnet.workflows.settings import check_number
from lipnet.workflows.transfer import check_unseen


def make_distillation(
    settings: Mapping[str, Any] | None, data: ImageDataModule, trust: Sequence[str] = ()
) -> Distillation | None:
    """Return the group ``distillation`` with its teacher; None without the group.

    Args:
        settings: teacher, weight and temperature.
        data: of the training.
        trust: packages besides lipnet and torch.nn whose modules the teacher may name.

    Raises:
        FileNotFoundError, CheckpointError: for a teacher's checkpoint that is missing or damaged.
        ValueError: without a teacher, for a setting out of range, and for a teacher that may have been trained on
            validation or test images of these data.
    """
    if settings is None:
        return None
    for name in ("weight", "temperature"):
        check_number(f"distillation.{name}", settings[name], float)
    if settings["teacher"] is None:
        raise ValueError(
            "distillation.teacher must be a teacher's run or checkpoint, got null: train one, for example with "
            "experiment=cpu/cifar100_teacher"
        )
    path = checkpoint_path(settings["teacher"])
    checkpoint = load_checkpoint(path, trust)
    check_unseen(data, checkpoint.dataset, path)
    return Distillation(checkpoint.model, settings["weight"], settings["temperature"], run_of(path))


def run_of(checkpoint: Path) -> dict[str, Any] | None:
    """Return the record of the run whose folder a checkpoint is in, or None without one.

    Raises:
        ValueError: for a damaged record.
    """
    path = checkpoint.parents[1] / "run.json"
    if checkpoint.parent.name != CHECKPOINTS or not path.is_file():
        return None
    read_starts(path)
    return dict(json.loads(path.read_text()))
