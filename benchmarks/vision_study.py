"""Adapt a network from one half of CIFAR-100's classes to the other, by every adapter.

    python -m benchmarks.vision_study --data-dir data --plan
    python -m benchmarks.vision_study --data-dir data
    python -m benchmarks.vision_study --render

The base is a residual network of a million parameters, trained on the classes 0 to 49 for about an hour of two cores.
All adapters have about the same number of parameters, and each trains a new head along with them. The baselines train
the head alone, and everything. A row is one training in its own process. The first rows are trials: for each method,
they choose one of two learning rates by the validation images, at the first seed. The chosen trainings alone read the
test images, once.

After an interruption, the same command resumes each row after its last complete epoch. Several commands may work on the
same folders at once: each row is locked by one of them.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.rows import RowRunner
from benchmarks.studies import best_rate, matching, read_trials, study_parser
from benchmarks.vision_methods import METHODS
from benchmarks.vision_report import write_report
from benchmarks.vision_row import BASE, HEAD_RATE, Job
from lipnet.training.run_record import commit, hardware

SEEDS = (0, 1, 2)
BASE_RATE = 0.2


@dataclass(frozen=True)
class Settings:
    """Settings that all rows share.

    Attributes:
        base_data, data: data of the base and of the adaptations, keys of `lipnet.data.DATAMODULES`.
        base_epochs, epochs: numbers of epochs of the base and of an adaptation.
    """

    base_data: str = "cifar100_first_half"
    data: str = "cifar100_second_half"
    base_epochs: int = 80
    epochs: int = 5


@dataclass(frozen=True)
class Row:
    """A training: a key of `METHODS` or "base", a seed, and the learning rate if it is a trial."""

    method: str
    seed: int = SEEDS[0]
    trial: float | None = None

    @property
    def name(self) -> str:
        if self.method == BASE:
            return BASE
        return f"{self.method}-" + (f"seed{self.seed}" if self.trial is None else f"rate{self.trial:g}")

    @property
    def tried(self) -> bool:
        """True if a trial trains this network, so that only the test images remain."""
        return self.method != BASE and self.trial is None and self.seed == SEEDS[0]


def trials() -> list[Row]:
    """Return the rows that choose the learning rates."""
    return [Row(name, SEEDS[0], rate) for name, method in METHODS.items() for rate in method.rates]


def finals() -> list[Row]:
    """Return the rows with test accuracies."""
    return [Row(name, seed) for seed in SEEDS for name in METHODS]


class Study(RowRunner[Row]):
    """Runs rows, each by benchmarks.vision_row.

    Args:
        work, output: see `RowRunner`.
        data_dir: folder of the data's files.
        settings: settings that all rows share.
    """

    def __init__(self, work: Path, output: Path, data_dir: Path, settings: Settings | None = None) -> None:
        super().__init__(work, output)
        self.data_dir, self.settings = data_dir.absolute(), settings or Settings()

    def run(self, rows: Sequence[Row], jobs: int = 1) -> bool:
        """Train the base with a thread for each job, then trials, then the rows whose learning rate is chosen.

        Returns:
            Whether all these rows are finished.
        """
        base = Row(BASE)
        self.threads = jobs
        if not self.perform([base]):
            return False
        self.threads = 1
        tried = self.perform([row for row in rows if row.trial is not None], jobs)
        others = [row for row in rows if row.trial is None and row != base]
        return self.perform_ready(others, lambda row: self.validated(row.method) is not None, jobs) and tried

    def validated(self, method: str) -> dict[float, float] | None:
        """Return the validation accuracy of each trial of a method by learning rate, or None while one is missing."""
        files = {row.trial: self.file_of(row) for row in trials() if row.method == method and row.trial is not None}
        contents = read_trials(files)
        return None if contents is None else {rate: content["validation"] for rate, content in contents.items()}

    def job_of(self, row: Row) -> Job:
        """Return the training of a row.

        Raises:
            ValueError: while a trial of the row's method is missing.
        """
        base, data_dir = self._state(BASE), str(self.data_dir)
        if row.method == BASE:
            return Job(BASE, row.seed, BASE_RATE, self.settings.base_epochs, self.settings.base_data, data_dir, base)
        rate = best_rate(row.name, row.method, self.validated(row.method)) if row.trial is None else row.trial
        # The chosen trial and the row of the first seed share a training.
        state = self._state(f"{row.method}-rate{rate:g}-seed{row.seed}")
        settings = (self.settings.epochs, self.settings.data, data_dir)
        return Job(row.method, row.seed, rate, *settings, state, base, test=row.trial is None)

    def _state(self, training: str) -> str:
        return str(self.work / "states" / f"{training}.pt")

    def command_of(self, row: Row, folder: Path) -> list[str]:
        write_json(folder / "job.json", asdict(self.job_of(row)))
        return [sys.executable, "-m", "benchmarks.vision_row", str(folder)]

    def content_of(self, row: Row, folder: Path) -> dict[str, Any]:
        job = self.job_of(row)
        result = json.loads((folder / "result.json").read_text())
        about = {"name": row.name, "method": row.method, "seed": row.seed, "rate": job.rate, "epochs": job.epochs}
        if row.method != BASE:
            method = METHODS[row.method]
            about |= {"label": method.label, "setting": method.setting, "place": method.place, "head_rate": HEAD_RATE}
        if job.test:
            about["validated"] = self.validated(row.method)
        machine = hardware(torch.device("cpu")) | {"threads": self.threads}
        return {**about, **result, "commit": commit(), "machine": machine, "torch": torch.__version__}


def main() -> None:
    arguments = study_parser(__doc__, "vision_study", "lora-*").parse_args()

    done = True
    if not arguments.render:
        rows = matching([*trials(), *finals()], arguments.only)
        study = Study(arguments.work, arguments.output, arguments.data_dir)
        if arguments.plan:
            from benchmarks.vision_plan import show

            return show(study, [Row(BASE), *rows], arguments.jobs)
        study.stop_on_signals()
        done = study.run(rows, arguments.jobs)
    write_report(arguments.output, [row.name for row in finals()])
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
