"""Adapt a network from one half of CIFAR-100's classes to the other, by every adapter.

    python -m benchmarks.vision_study --data-dir data --plan
    python -m benchmarks.vision_study --data-dir data
    python -m benchmarks.vision_study --render

The base is a residual network of a million parameters, trained on the classes 0 to 49 for about an hour of two cores.
All adapters have about the same number of parameters, and a new head is trained along with each. The baselines are the
head alone and fine-tuning of everything. A row is one training in a process of its own. The first rows are trials: for
each method they choose one of two learning rates by validation images, at the first seed. The test images are read
once, by the chosen trainings.

After an interruption, the same command goes on after the last complete epoch of each row. Several commands may work on
the same folders at once: each row is locked by one of them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.rows import RowRunner
from benchmarks.vision_methods import METHODS
from benchmarks.vision_report import write_report
from benchmarks.vision_row import BASE, Job
from lipnet.training.run_record import commit, hardware

SEEDS = (0, 1, 2)
BASE_RATE = 0.2


@dataclass(frozen=True)
class Settings:
    """Data of the base and of the adaptations, keys of `lipnet.data.DATAMODULES`, and numbers of epochs."""

    base_data: str = "cifar100_first_half"
    data: str = "cifar100_second_half"
    base_epochs: int = 80
    epochs: int = 5


@dataclass(frozen=True)
class Row:
    """One training: a key of `METHODS` or the base, a seed, and the learning rate of a trial."""

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
        """A trial has trained this network already, so that only the test images are left."""
        return self.method != BASE and self.trial is None and self.seed == SEEDS[0]


def trials() -> list[Row]:
    """Return the rows that choose the learning rates."""
    return [Row(name, SEEDS[0], rate) for name, method in METHODS.items() for rate in method.rates]


def finals() -> list[Row]:
    """Return the rows with results."""
    return [Row(name, seed) for seed in SEEDS for name in METHODS]


class Study(RowRunner[Row]):
    """Trainings of rows, each by benchmarks.vision_row.

    Args:
        work, output: as for `RowRunner`.
        data_dir: folder of the files of the data.
        settings: of all rows.
    """

    def __init__(self, work: Path, output: Path, data_dir: Path, settings: Settings | None = None) -> None:
        super().__init__(work, output)
        self.data_dir, self.settings = data_dir.absolute(), settings or Settings()

    def run(self, rows: Sequence[Row], jobs: int = 1) -> bool:
        """Train the base, with the threads of all jobs, then trials, then the rows whose learning rate is chosen."""
        base = Row(BASE)
        self.threads = jobs
        if not self.perform([base]):
            return False
        self.threads = 1
        tried = self.perform([row for row in rows if row.trial is not None], jobs)
        others = [row for row in rows if row.trial is None and row != base]
        ready = [row for row in others if self.validated(row.method) is not None]
        for row in others:
            if row not in ready:
                self.console.print(f"{row.name}: waits for the trials of its learning rate")
        return self.perform(ready, jobs) and tried and ready == others

    def validated(self, method: str) -> dict[float, float] | None:
        """Return the validation accuracy of each trial of a method by learning rate, or None while one is missing."""
        files = {row.trial: self.file_of(row) for row in trials() if row.method == method and row.trial is not None}
        if not all(file.is_file() for file in files.values()):
            return None
        return {rate: json.loads(file.read_text())["validation"] for rate, file in files.items()}

    def job_of(self, row: Row) -> Job:
        base, data_dir = self._state(BASE), str(self.data_dir)
        if row.method == BASE:
            return Job(BASE, row.seed, BASE_RATE, self.settings.base_epochs, self.settings.base_data, data_dir, base)
        rate = self.rate_of(row)
        # The chosen trial and the row of its seed share a training.
        state = self._state(f"{row.method}-rate{rate:g}-seed{row.seed}")
        settings = (self.settings.epochs, self.settings.data, data_dir)
        return Job(row.method, row.seed, rate, *settings, state, base, test=row.trial is None)

    def rate_of(self, row: Row) -> float:
        """Return the learning rate of a trial, or the best one of its method's trials."""
        if row.trial is not None:
            return row.trial
        validated = self.validated(row.method)
        if validated is None:
            raise ValueError(f"{row.name} needs a learning rate: run the trials of {row.method} first")
        return max(validated, key=lambda rate: validated[rate])

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
            about |= {"label": method.label, "setting": method.setting, "place": method.place}
        if job.test:
            about["validated"] = self.validated(row.method)
        machine = hardware(torch.device("cpu")) | {"threads": self.threads}
        return {**about, **result, "commit": commit(), "machine": machine, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that contains cifar-100-python")
    parser.add_argument("--work", type=Path, default=Path("logs/vision_study"), help="folder for the runs")
    parser.add_argument("--output", type=Path, default=Path("results/vision_study"))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="rows, such as 'lora-*'")
    parser.add_argument("--jobs", type=int, default=2, help="number of trainings at a time, of one thread each")
    parser.add_argument("--plan", action="store_true", help="only print rows, parameters and estimated minutes")
    parser.add_argument("--render", action="store_true", help="only write the table and the plot")
    arguments = parser.parse_args()

    done, every = True, [*trials(), *finals()]
    if not arguments.render:
        rows = [row for row in every if any(fnmatchcase(row.name, pattern) for pattern in arguments.only)]
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
