"""Trainings of the transfer study: their steps, their processes and their figures."""

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rows import RowRunner
from benchmarks.step_times import composed, read_step_times
from benchmarks.sweep import LAST, QUIET, Row
from benchmarks.sweep import overrides_of as merged
from benchmarks.sweep_report import RADIUS
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
    """The trainings of the study, each in work/NAME, and output/trainings/NAME.json for each finished one.

    A training ends with the certificates of the validation images, in float32.

    Args:
        work, output: as for `RowRunner`.
        more: overrides of all trainings.
        network: overrides of the bases alone, such as ``model.depth=10``.
        minutes: on two cores, instead of those of each training.
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
        return self.work / training.name

    def command_of(self, row: Training, folder: Path) -> list[str]:
        last = folder / LAST
        # Of two checkpoints, Hydra takes the later one.
        resumed = [f"ckpt_path={last}"] if last.is_file() else []
        return [sys.executable, "train.py", *self.overrides_of(row), f"hydra.run.dir={folder}", *resumed]

    def overrides_of(self, training: Training) -> list[str]:
        base = self.folder_of(Training(training.task, BASE)) / BEST
        epochs, batches = self.length_of(training)
        length = [
            f"trainer.max_epochs={epochs}",
            f"trainer.limit_train_batches={batches}",
            # Only the last weights are validated, and so they are the best ones.
            f"trainer.check_val_every_n_epoch={epochs}",
            "certify.split=validation",
            "certify.dtype=float32",
        ]
        return [*self._stated(training, str(base)), *length]

    def _stated(self, training: Training, base: str) -> list[str]:
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
        """Return epochs of equal length, and the steps of each, that fit into the minutes."""
        minutes = training.minutes if self.minutes is None else self.minutes
        steps = max(1, round(60 * CORES * minutes / self.seconds[training.kind]))
        epochs = ceil(steps * recipe().data.batch_size / TASKS[training.task].training_images)
        return epochs, round(steps / epochs)

    def steps_of(self, training: Training) -> int:
        return prod(self.length_of(training))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The processor time of a training step of each kind."""
        return read_step_times(self.output / "step_times.json", self.untrained, threads=1)

    @cached_property
    def trained(self) -> dict[str, int]:
        """The number of trained parameters of each kind of training."""
        models = {kind: composed(overrides)[2].model for kind, overrides in self.untrained.items()}
        return {
            kind: sum(each.numel() for each in model.parameters() if each.requires_grad)
            for kind, model in models.items()
        }

    @cached_property
    def untrained(self) -> dict[str, list[str]]:
        """The overrides of each kind of training, from bases that are not trained."""
        found = {}
        for base in bases():
            found[base.kind] = self._stated(base, "")
            module = composed(found[base.kind])[2]
            assert module.description is not None
            path = Path(self._untrained.name, f"{base.task}.ckpt")
            save_checkpoint(path, module.model, module.description["model"], module.description["dataset"])
            for name in methods_of(base.task):
                training = Training(base.task, name, METHODS[name].rates[0])
                found[training.kind] = self._stated(training, str(path))
        return found

    def validated(self, task: str, method: str) -> dict[float, float] | None:
        """Return the certified accuracy of each trial of a method by learning rate, or None while one is missing."""
        files = {
            each.rate: self.file_of(each)
            for each in trials()
            if (each.task, each.method) == (task, method) and each.rate
        }
        if not all(file.is_file() for file in files.values()):
            return None
        contents = {rate: json.loads(file.read_text()) for rate, file in files.items()}
        return {rate: content["summary"]["certified_accuracy"][RADIUS] for rate, content in contents.items()}


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the summary of the certificates in a folder, without the local path, the checksum over it, and lists."""
    summary = json.loads((folder / "summary.json").read_text())
    left_out = ("checkpoint", "sha256", "layers", "classes")
    return {key: value for key, value in summary.items() if key not in left_out}
