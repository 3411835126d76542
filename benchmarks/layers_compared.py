"""Train the same network with each 1-Lipschitz layer for the same time, and certify it.

    python -m benchmarks.layers_compared --data-dir data
    python -m benchmarks.layers_compared --render

A row is a layer, or group-and-shuffle over it with groups (4, 1). It trains LipConvNet-5 with 16 initial channels on
CIFAR-100, with one recipe for all rows, for 6 minutes on two threads with each of two learning rates. The time includes
validation. certify.py then certifies, on the test images in float64, the training whose certified accuracy on the
validation images, in float32, is larger. Rows come in the order of the layers' names. After an interruption, the same
command resumes within the training. Run one command at a time: times are comparable only on a machine that does nothing
else.

Longer trainings: --minutes 60. Other networks and devices: overrides such as model.depth=15 trainer=gpu.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.common import write_json
from benchmarks.layer_list import layer_names
from benchmarks.layers_report import write_report
from benchmarks.pages import certified
from benchmarks.rows import ROOT, command_parser, stored_summary
from benchmarks.sweep import Row, Sweep

BASE = (
    "data=cifar100",
    "data.batch_size=128",
    "data.crop_padding=1",
    "activation=maxmin_permuted",
    "head=lln",
    "loss=offset_cross_entropy",
    "optimizer=sgd",
    "scheduler=timed_one_cycle",
    "scheduler.pct_start=0.2",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.995",
    "model.depth=5",
    "model.initial_channels=16",
    "trainer=cpu",
    "trainer.max_epochs=-1",
    "certify.split=validation",
    "certify.dtype=float32",
    "seed=0",
)
GROUPS = "[4,1]"
RATES = (0.03, 0.3)
MINUTES = 6.0
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
    """Runs the rows of the table, one after the other.

    Args:
        work: folder for the runs.
        output: folder for the files of finished rows, rows/NAME.json.
        more: overrides that apply to every training.
        minutes: time of each training, with validation.
        rates: learning rates to choose from.
        threads: number of threads of each training.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        more: Sequence[str] = (),
        minutes: float = MINUTES,
        rates: Sequence[float] = RATES,
        threads: int = 2,
    ) -> None:
        self.work, self.output, self.rates, self.threads = work.absolute(), output.absolute(), tuple(rates), threads
        self.sweep = Sweep(work, work, [*more, f"trainer.max_time={duration(minutes)}"], threads, BASE)

    def perform(self, rows: Sequence[Entry]) -> bool:
        """Train and certify the unfinished rows; return whether all are finished."""
        # A list, because all() of a generator would skip the rows after a failed one.
        finished = [self._row(entry) for entry in rows]
        return all(finished)

    def file_of(self, entry: Entry) -> Path:
        """Return the file of a finished row."""
        return self.output / "rows" / f"{entry.name}.json"

    def _row(self, entry: Entry) -> bool:
        if self.file_of(entry).is_file():
            return True
        trainings = {rate: entry.training(rate) for rate in self.rates}
        self.sweep.perform(list(trainings.values()))
        validated = {rate: share_of(self.sweep.file_of(row)) for rate, row in trainings.items()}
        # A training may diverge at one of the rates.
        finished = {rate: share for rate, share in validated.items() if share is not None}
        if self.sweep.stopped or not finished:
            return False
        rate = max(finished, key=lambda each: finished[each])
        run = self.work / trainings[rate].name
        if not self._certified(run):
            return False
        overrides = json.loads(self.sweep.file_of(trainings[rate]).read_text())["overrides"]
        about = {"name": entry.name, "change": entry.overrides, "overrides": overrides, "validated": validated}
        write_json(self.file_of(entry), about | {"rate": rate, **figures_of(run)}, indent=1)
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


def duration(minutes: float) -> str:
    """Write minutes as Lightning reads a time: DD:HH:MM:SS.

    Raises:
        ValueError: for less than a second.
    """
    seconds = round(timedelta(minutes=minutes).total_seconds())
    if seconds < 1:
        raise ValueError(f"minutes must make up at least a second, got {minutes}")
    days, hours = divmod(seconds // 3600, 24)
    return f"{days:02}:{hours:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def share_of(file: Path) -> float | None:
    """Return the certified accuracy of a training on the validation images, or None if it did not finish."""
    return certified(json.loads(file.read_text())) if file.is_file() else None


def figures_of(run: Path) -> dict[str, Any]:
    """Return the summary of a run's test images, its record, speed, memory and validation curve.

    The speed is the number of training images divided by the time of training and validation.
    """
    record = json.loads((run / "run.json").read_text())
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    batch = config.data.batch_size
    return {
        "summary": stored_summary(run / TEST, "layers"),
        "run": record,
        "images_per_second": record["steps"] * batch / record["seconds"],
        "memory_bytes": memory_of(run / "checkpoints" / "best.ckpt", batch),
        "curve": curve_of(run, record),
    }


def curve_of(run: Path, record: dict[str, Any]) -> list[tuple[float, float]]:
    """Return pairs of seconds and certified accuracy on the validation images.

    The logged metrics have steps but no times, so every step is given the same share of the training's time.
    """
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/certified_36_255"]]
    seconds_per_step = record["seconds"] / record["steps"]
    return [((int(row["step"]) + 1) * seconds_per_step, float(row["val/certified_36_255"])) for row in rows]


def memory_of(checkpoint: Path, batch: int) -> int:
    """Return the peak of live bytes in a training step, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.layers_memory", str(checkpoint), str(batch)]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = command_parser(__doc__, "layers_compared")
    parser.add_argument("overrides", nargs="*", help="overrides of all trainings: model.depth=15 trainer=gpu")
    names = [entry.name for entry in entries()]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="rows; default: all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time of each training; default: 6")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of each training")
    parser.add_argument("--page", type=Path, default=Path("docs/convolutions.md"), help="page that gets the table")
    arguments = parser.parse_args()

    done = True
    if not arguments.render:
        more = [f"paths.data_dir={arguments.data_dir.absolute()}", *arguments.overrides]
        comparison = Comparison(
            arguments.work, arguments.output, more, arguments.minutes, arguments.rates, arguments.threads
        )
        comparison.sweep.stop_on_signals()
        done = comparison.perform([entry for entry in entries() if entry.name in arguments.only])
    write_report(arguments.output, names, arguments.page)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
