"""Trainings of the transfer study: their steps, their processes and their figures."""

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.pages import certified
from benchmarks.rows import RowRunner, stored_summary
from benchmarks.step_times import composed, read_step_times
from benchmarks.studies import read_trials
from benchmarks.sweep import LAST, QUIET, Row
from benchmarks.sweep import overrides_of as merged
from benchmarks.timed_sweep import Length
from benchmarks.transfer_rows import (
    BASE,
    CORES,
    METHODS,
    TASKS,
    Training,
    bases,
    methods_of,
    overrides_of,
    recipe,
    trials,
)
from lipnet.models import save_checkpoint

BEST = Path("checkpoints", "best.ckpt")
# Overrides that name paths of this machine.
LOCAL = ("ckpt_path=", "paths.")


class Trainings(RowRunner[Training]):
    """Runs the trainings of the study. The file of a finished one is output/trainings/NAME.json.

    A training ends with the certificates of the validation images, in float32.

    Args:
        work, output: see `RowRunner`.
        more: overrides that apply to every training.
        network: overrides that apply to the bases alone, such as ``model.depth=10``.
        minutes: time of every training on two cores; None: `Training.minutes`.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        more: Sequence[str] = (),
        network: Sequence[str] = (),
        minutes: float | None = None,
    ) -> None:
        super().__init__(work, output)
        self.more, self.network, self.minutes = tuple(more), tuple(network), minutes
        self._untrained = TemporaryDirectory()

    def file_of(self, row: Training) -> Path:
        return self.output / "trainings" / f"{row.name}.json"

    def folder_of(self, training: Training) -> Path:
        """Return the folder of a training's run."""
        return self.work / training.name

    def command_of(self, row: Training, folder: Path) -> list[str]:
        last = folder / LAST
        # It comes after the base's checkpoint, and Hydra takes the last of several values.
        resumed = [f"ckpt_path={last}"] if last.is_file() else []
        return [sys.executable, "train.py", *self.overrides_of(row), f"hydra.run.dir={folder}", *resumed]

    def overrides_of(self, training: Training) -> list[str]:
        """Return the overrides of a training, with its epochs and the steps of each."""
        base = self.folder_of(Training(training.task, BASE)) / BEST
        epochs, batches = self.length_of(training)
        length = [
            f"trainer.max_epochs={epochs}",
            f"trainer.limit_train_batches={batches}",
            # Validate after the last epoch alone, so that the best checkpoint is the last one.
            f"trainer.check_val_every_n_epoch={epochs}",
            "certify.split=validation",
            "certify.dtype=float32",
        ]
        return [*self._without_length(training, str(base)), *length]

    def _without_length(self, training: Training, base: str) -> list[str]:
        more = [*self.more, *(self.network if training.method == BASE else ())]
        return merged(Row(training.name, training.task), more, overrides_of(training, base))

    def content_of(self, row: Training, folder: Path) -> dict[str, Any]:
        about = {"name": row.name, "task": row.task, "method": row.method, "rate": row.rate, "seed": row.seed}
        return about | {
            "trained_parameters": self.trained[row.kind],
            "overrides": [each for each in self.overrides_of(row) if not each.startswith(LOCAL) and each not in QUIET],
            "summary": summary_of(folder),
            "run": json.loads((folder / "run.json").read_text()),
        }

    def length_of(self, training: Training) -> tuple[int, int]:
        """Return the number of epochs and the steps of each, so that the training fits into its minutes."""
        minutes = training.minutes if self.minutes is None else self.minutes
        length = Length(CORES * minutes, self.seconds, TASKS[training.task].training_images, epochs=1)
        return length.of(training.kind, recipe().data.batch_size)

    def steps_of(self, training: Training) -> int:
        """Return the number of steps of a training."""
        return prod(self.length_of(training))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Processor seconds of a training step, by kind of training."""
        return read_step_times(self.output / "step_times.json", self.untrained, threads=1)

    @cached_property
    def trained(self) -> dict[str, int]:
        """Number of trained parameters, by kind of training."""
        models = {kind: composed(overrides)[2].model for kind, overrides in self.untrained.items()}
        return {
            kind: sum(each.numel() for each in model.parameters() if each.requires_grad)
            for kind, model in models.items()
        }

    @cached_property
    def untrained(self) -> dict[str, list[str]]:
        """Overrides by kind of training, with untrained bases, to measure and count before any base is trained."""
        found = {}
        for base in bases():
            found[base.kind] = self._without_length(base, "")
            module = composed(found[base.kind])[2]
            assert module.description is not None
            path = Path(self._untrained.name, f"{base.task}.ckpt")
            save_checkpoint(path, module.model, module.description["model"], module.description["dataset"])
            for name in methods_of(base.task):
                training = Training(base.task, name, METHODS[name].rates[0])
                found[training.kind] = self._without_length(training, str(path))
        return found

    def validated(self, task: str, method: str) -> dict[float, float] | None:
        """Return the certified accuracy of each trial of a method by learning rate, or None while one is missing."""
        files = {
            each.rate: self.file_of(each)
            for each in trials()
            if (each.task, each.method) == (task, method) and each.rate is not None
        }
        contents = read_trials(files)
        return None if contents is None else {rate: certified(content) for rate, content in contents.items()}


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the summary of a folder's certificates, without its lists of layers and classes."""
    return stored_summary(folder, "layers", "classes")
