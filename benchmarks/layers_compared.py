"""Train the same network with each 1-Lipschitz layer for the same time, and certify it.

    python -m benchmarks.layers_compared --data-dir data
    python -m benchmarks.layers_compared --render

A row is a layer, or group-and-shuffle over it with groups (4, 1). It trains LipConvNet-5 with 16 initial channels on
CIFAR-100, with one recipe for all rows and each of two learning rates, for as many steps as two threads make in 6
minutes. For that, the command first times a step of every row, in several rounds, and keeps the times in
``step_times.json``. So a load on the machine during the trainings changes no result; start the command on a quiet one.
certify.py then certifies, on the test images in float64, the training whose certified accuracy on the validation
images, in float32, is larger. After an interruption, the same command resumes within the training.

Longer trainings: --minutes 60. Other networks and devices: overrides such as model.depth=15 trainer=gpu.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.common import write_json
from benchmarks.layer_list import layer_names
from benchmarks.layers_report import write_report
from benchmarks.pages import certified
from benchmarks.rows import ROOT, command_parser, stored_summary
from benchmarks.step_times import read_step_times, training_images
from benchmarks.sweep import Row, overrides_of
from benchmarks.timed_sweep import Length, TimedSweep

BASE = (
    "data=cifar100",
    "data.batch_size=128",
    "data.crop_padding=1",
    "activation=maxmin_permuted",
    "head=lln",
    "loss=offset_cross_entropy",
    "optimizer=sgd",
    "scheduler=one_cycle",
    "scheduler.pct_start=0.2",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.995",
    "model.depth=5",
    "model.initial_channels=16",
    "trainer=cpu",
    "certify.split=validation",
    "certify.dtype=float32",
    "seed=0",
)
GROUPS = "[4,1]"
RATES = (0.03, 0.3)
# Time of a training on two threads, and its smallest number of epochs; each ends with a validation.
MINUTES, EPOCHS = 6.0, 6
# Folder of the test images' certificates, in the folder of a training.
TEST = "test"


@dataclass(frozen=True)
class Entry:
    """Row of the table: its name, and the overrides that choose its convolution."""

    name: str
    overrides: tuple[str, ...]

    def training(self, rate: float) -> Row:
        """Return the row's training at a learning rate."""
        return Row(f"{self.name}_lr_{rate:g}", self.name, (*self.overrides, f"optimizer.lr={rate:g}"))


def entries() -> list[Entry]:
    """Return a row for each layer and for group-and-shuffle over it."""
    return [
        entry
        for name in layer_names()
        for entry in (
            Entry(name, (f"conv={name}",)),
            Entry(f"gs_{name}", ("conv=gs", f"conv@conv.layer={name}", f"conv.groups={GROUPS}")),
        )
    ]


class Comparison:
    """Runs the rows of the table.

    Args:
        work: folder for the runs.
        output: folder for the files of finished rows, rows/NAME.json.
        length: time of the trainings, and of a step of each row.
        more: overrides that apply to every training.
        rates: learning rates to choose from.
        threads: number of threads of each training.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        length: Length,
        more: Sequence[str] = (),
        rates: Sequence[float] = RATES,
        threads: int = 1,
    ) -> None:
        self.work, self.output, self.length = work.absolute(), output.absolute(), length
        self.rates, self.threads = tuple(rates), threads
        self.sweep = TimedSweep(work, work, length, BASE, more, threads, validations=True)

    def perform(self, rows: Sequence[Entry], jobs: int = 1) -> bool:
        """Train and certify the unfinished rows; return whether all are finished."""
        with ThreadPoolExecutor(jobs) as pool:
            return all(list(pool.map(self._row, rows)))

    def file_of(self, entry: Entry) -> Path:
        """Return the file of a finished row."""
        return self.output / "rows" / f"{entry.name}.json"

    def _row(self, entry: Entry) -> bool:
        if self.file_of(entry).is_file():
            return True
        trainings = {rate: entry.training(rate) for rate in self.rates}
        self.sweep.perform(list(trainings.values()))
        validated = {rate: share_of(self.sweep.file_of(row)) for rate, row in trainings.items()}
        finished = {rate: share for rate, share in validated.items() if share is not None}
        # A training may diverge at one of the rates. One that is locked, or was stopped or killed, may still finish.
        missing = {row.name for rate, row in trainings.items() if rate not in finished}
        if self.sweep.stopped or not finished or not missing <= self.sweep.failed:
            return False
        rate = max(finished, key=lambda each: finished[each])
        run = self.work / trainings[rate].name
        if not self._certified(run):
            return False
        overrides = json.loads(self.sweep.file_of(trainings[rate]).read_text())["overrides"]
        about = {"name": entry.name, "change": entry.overrides, "overrides": overrides, "validated": validated}
        minutes, seconds = self.length.minutes, self.length.seconds[entry.name]
        figures = {"minutes": minutes, "seconds_per_step": seconds, **figures_of(run, seconds)}
        write_json(self.file_of(entry), about | {"rate": rate, **figures}, indent=1)
        return True

    def _certified(self, run: Path) -> bool:
        """Certify the best checkpoint of a run on the test images."""
        data = [each for each in self.sweep.more if each.startswith("paths.data_dir=")]
        command = [sys.executable, "certify.py", str(run), f"output_dir={run / TEST}", "overwrite=true", *data]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with (run / "certify.log").open("ab") as log:
            status = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
        if status != 0:
            self.sweep.console.print(f"{run.name}: not certified, see {run / 'certify.log'}", soft_wrap=True)
        return status == 0


def share_of(file: Path) -> float | None:
    """Return the certified accuracy of a training on the validation images, or None if it did not finish."""
    return certified(json.loads(file.read_text())) if file.is_file() else None


def figures_of(run: Path, seconds_per_step: float) -> dict[str, Any]:
    """Return the summary of a run's test images, its record, speed, memory and validation curve."""
    batch = OmegaConf.load(run / ".hydra" / "config.yaml").data.batch_size
    return {
        "summary": stored_summary(run / TEST, "layers"),
        "run": json.loads((run / "run.json").read_text()),
        "images_per_second": batch / seconds_per_step,
        "memory_bytes": memory_of(run / "checkpoints" / "best.ckpt", batch),
        "curve": curve_of(run, seconds_per_step),
    }


def curve_of(run: Path, seconds_per_step: float) -> list[tuple[float, float]]:
    """Return pairs of seconds of training and certified accuracy on the validation images."""
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/certified_36_255"]]
    return [((int(row["step"]) + 1) * seconds_per_step, float(row["val/certified_36_255"])) for row in rows]


def memory_of(checkpoint: Path, batch: int) -> int:
    """Return the peak of live bytes in a training step, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.layers_memory", str(checkpoint), str(batch)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def length_of(rows: Sequence[Entry], rates: Sequence[float], more: Sequence[str], minutes: float, file: Path) -> Length:
    """Return the time of the trainings; the file keeps the times of a step, measured with two threads."""
    stated = {entry.name: overrides_of(entry.training(rates[0]), more, BASE) for entry in rows}
    seconds = read_step_times(file, stated, threads=2)
    named = {entry.training(rate).name: seconds[entry.name] for entry in rows for rate in rates}
    return Length(minutes, {**seconds, **named}, training_images(stated[rows[0].name]), EPOCHS)


def main() -> None:
    parser = command_parser(__doc__, "layers_compared")
    parser.add_argument("overrides", nargs="*", help="overrides of all trainings: model.depth=15 trainer=gpu")
    names = [entry.name for entry in entries()]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="rows; default: all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time of each training; default: 6")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--jobs", type=int, default=2, help="number of rows at a time; default: 2")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of each training; default: 1")
    parser.add_argument("--page", type=Path, default=Path("docs/convolutions.md"), help="page that gets the table")
    arguments = parser.parse_args()

    done = True
    if not arguments.render:
        more = [f"paths.data_dir={arguments.data_dir.absolute()}", *arguments.overrides]
        file = arguments.output / "step_times.json"
        length = length_of(entries(), arguments.rates, more, arguments.minutes, file)
        comparison = Comparison(arguments.work, arguments.output, length, more, arguments.rates, arguments.threads)
        comparison.sweep.stop_on_signals()
        done = comparison.perform([entry for entry in entries() if entry.name in arguments.only], arguments.jobs)
    write_report(arguments.output, names, arguments.page)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
