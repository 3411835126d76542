"""Measure everything of interest on an accelerator, within a budget of minutes.

    python -m benchmarks.accelerator --minutes 12 --data-dir data

The steps, each of which is saved before the next one starts:

1. a smoke test: a short training on CIFAR-100, certified on the device;
2. the step times of LipConvNet-15 (`benchmarks.lipconvnet`), then of the other networks (`benchmarks.networks`): plain,
   in bfloat16 with the channels-last layout, and compiled;
3. the recipe of ``experiment=speedrun/cifar100`` for the minutes that are left, certified on all test images.

If a step fails or takes too long, the command records that and continues with the next one. ``results/gpu/`` gets
accelerator.json with the steps, a JSON file for each measurement, and config.yaml, run.json, summary.json and curve.png
of the speedrun.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.common import machine, write_json
from benchmarks.rows import ROOT

# Seconds that the speedrun needs beside its training: start, certification, writing.
_AROUND_SPEEDRUN = 60
# With fewer seconds left for its training, the speedrun is left out.
_LEAST_TRAINING = 20
# Lines of a step's output in the record.
_LINES_KEPT = 15
KEPT = (".hydra/config.yaml", "run.json", "summary.json", "curve.png")
TINY = ("data=digits", "model.stages=3", "model.depth=3", "model.initial_channels=8", "conv.groups=[2,null]")
MODES = {
    "plain": (),
    "bfloat16_channels_last": ("--autocast", "--channels-last"),
    "bfloat16_compiled": ("--autocast", "--channels-last", "--compile", "default"),
    "bfloat16_graphs": ("--autocast", "--channels-last", "--compile", "reduce-overhead"),
}


@dataclass(frozen=True)
class Step:
    """Command, and the largest share of the remaining time that it may take."""

    name: str
    command: Sequence[str]
    share: float = 1.0


class Session:
    """Runs steps one after the other within a budget, and writes a record after each one.

    Args:
        output: folder of the record, accelerator.json.
        seconds: the budget, which starts now.
        about: facts on the machine for the record.
    """

    def __init__(self, output: Path, seconds: float, about: dict[str, Any]) -> None:
        self.output, self.about = output, about
        self.end = time.monotonic() + seconds
        self.steps: list[dict[str, Any]] = []
        self.console = Console()

    @property
    def left(self) -> float:
        """Remaining seconds of the budget."""
        return self.end - time.monotonic()

    def run(self, step: Step) -> bool:
        """Run a step, record its outcome, and return whether it succeeded."""
        start, limit = time.monotonic(), self.left * step.share
        if limit <= 0:
            return self._note(step, "no time left", 0.0, "")
        self.console.print(f"{step.name}: at most {limit:.0f} s")
        try:
            done = subprocess.run(step.command, cwd=ROOT, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired as error:
            printed = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout
            return self._note(step, f"stopped after {limit:.0f} s", limit, printed or "")
        status = "finished" if done.returncode == 0 else f"failed with status {done.returncode}"
        return self._note(step, status, time.monotonic() - start, done.stdout + done.stderr)

    def skip(self, name: str) -> None:
        """Record a step for which no time is left."""
        self._note(Step(name, ()), "no time left", 0.0, "")

    def _note(self, step: Step, status: str, seconds: float, printed: str) -> bool:
        last = printed.splitlines()[-_LINES_KEPT:]
        self.steps.append({"name": step.name, "status": status, "seconds": round(seconds, 1), "printed": last})
        write_json(self.output / "accelerator.json", {"machine": self.about, "steps": self.steps})
        self.console.print(f"{step.name}: {status}")
        if status != "finished":
            self.console.print("\n".join(last), markup=False)
        return status == "finished"


def training(run: Path, data_dir: Path, device: torch.device, overrides: Sequence[str]) -> list[str]:
    """Return the command of a training by the speedrun's recipe."""
    kind = "gpu" if device.type == "cuda" else device.type
    return [
        sys.executable,
        "train.py",
        "experiment=speedrun/cifar100",
        f"trainer.accelerator={kind}",
        f"paths.data_dir={data_dir}",
        f"hydra.run.dir={run}",
        "logger=[csv]",
        "trainer.enable_progress_bar=false",
        *overrides,
    ]


def measurements(output: Path, device: torch.device, tiny: bool) -> list[Step]:
    """Return the steps that measure step times, LipConvNet's first."""
    size = {"lipconvnet": ["--batch", "32", "128"], "networks": ["--batch", "256"]}
    if tiny:
        size = {"networks": ["--shapes", "tiny", "--batch", "4"]}
    steps = []
    for module, options in size.items():
        for mode, flags in MODES.items():
            file = output / f"{module}_{mode}.json"
            command = [sys.executable, "-m", f"benchmarks.{module}", "--device", str(device), *options, *flags]
            command += ["--rounds", "1" if tiny else "5", "--output", str(file)]
            steps.append(Step(f"{module}, {mode}", command, share=0.2))
    return steps[:1] if tiny else steps


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="budget for everything")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that contains cifar-100-python")
    parser.add_argument("--output", type=Path, default=Path("results/gpu"))
    parser.add_argument("--work", type=Path, default=Path("logs/accelerator"), help="folder for the runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small networks on the digits, to try the command")
    chosen = parser.parse_args(arguments)
    if not chosen.minutes > 0:
        parser.error(f"minutes must be positive, got {chosen.minutes}")

    device, tiny = torch.device(chosen.device), list(TINY) if chosen.tiny else []
    output, work, data = chosen.output.absolute(), chosen.work.absolute(), chosen.data_dir.absolute()
    session = Session(output, 60 * chosen.minutes, machine(device))
    smoke = ["trainer.max_time=null", "trainer.max_epochs=1", "scheduler=one_cycle", "trainer.limit_train_batches=4"]
    smoke += ["certify.n_samples=8", "trainer.limit_val_batches=1", *tiny]
    done = session.run(Step("smoke test", training(work / "smoke", data, device, smoke), share=0.5))
    for step in measurements(output, device, chosen.tiny):
        done &= session.run(step)
    seconds = 5 if chosen.tiny else round(session.left - _AROUND_SPEEDRUN)
    if seconds < _LEAST_TRAINING and not chosen.tiny:
        session.skip("speedrun")
        return 1
    limit = f"{seconds // 86_400:02}:{time.strftime('%H:%M:%S', time.gmtime(seconds))}"
    overrides = [f"trainer.max_time='{limit}'", *tiny, *(["certify.n_samples=50"] if tiny else [])]
    run = work / "speedrun"
    if not session.run(Step("speedrun", training(run, data, device, overrides))):
        return 1
    for name in KEPT:
        shutil.copy(run / name, output)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
