"""Kill trainings at random points, resume them, and compare them with an uninterrupted one, bit for bit.

    python -m benchmarks.kill_resume --kills 50

Short runs of ``train.py experiment=quickstart`` on the digits write their last checkpoint every third of a second. Most
get SIGKILL after a random share of an uninterrupted run's processor time, anywhere between the first line of train.py
and the certification. Every fifth run gets it while it writes a checkpoint. Every third run gets it a second time,
after it has resumed. Finally, all resume and finish. Weights, momenta, logged figures and certificates must equal those
of the uninterrupted run.

Importing torch and Lightning takes most of a short run. So this process imports them once, and forks for every run,
before torch computes anything. Needs Linux.
"""

import argparse
import math
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# torch reads this when it is imported. A fork must not inherit threads.
os.environ["OMP_NUM_THREADS"] = "1"

from lightning import Callback, LightningModule, Trainer

import lipnet.workflows  # noqa: F401  imported once, before the forks
from benchmarks.reliability import FOLDER, write_figures
from benchmarks.rows import ROOT
from benchmarks.run_differences import differences

TASK = "quickstart"
OVERRIDES = (
    "experiment=quickstart",
    "trainer.enable_progress_bar=false",
    "callbacks.progress_bar=null",
    "callbacks.model_summary=null",
    "callbacks.last_checkpoint.every_minutes=0.005",
    "logger=csv",
)
START, SETUP, TRAINING, VALIDATION, AFTER = "start-up", "set-up", "training", "validation", "certification"
PHASES = (START, SETUP, TRAINING, VALIDATION, AFTER)
WRITING = "a checkpoint being written"
POLL_SECONDS = 0.001
MOST_WRITINGS = 8


class PhaseMarker(Callback):
    """Callback that writes the present phase of the training to a file, for the killing process.

    Args:
        path: an existing file, which gets one byte.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY)

    def _mark(self, phase: str) -> None:
        os.pwrite(self._file, bytes([PHASES.index(phase)]), 0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._mark(SETUP)

    def on_train_batch_start(self, *_: Any) -> None:
        self._mark(TRAINING)

    def on_validation_start(self, *_: Any) -> None:
        self._mark(VALIDATION)

    def on_validation_end(self, *_: Any) -> None:
        self._mark(TRAINING)

    def on_fit_end(self, *_: Any) -> None:
        self._mark(AFTER)


@dataclass
class Run:
    """Training in its own folder that may be killed and resumed.

    Attributes:
        folder: folder for its logs.
        epochs: length of the training.
        kills: phases in which it was killed.
        left: files that kills have left half written. The resumed training starts beside them.
    """

    folder: Path
    epochs: int
    kills: list[str]
    left: list[Path] = field(default_factory=list)

    def start(self, kill_after: float = math.inf, at_writing: float = math.inf) -> bool:
        """Start or resume the training; kill it after some processor time, or while it writes its n-th checkpoint.

        Returns:
            Whether it finished.

        Raises:
            RuntimeError: if it failed, with the end of its output.
        """
        phase, log = self.folder / "phase", self.folder / "output.log"
        phase.write_bytes(b"\0")
        overrides = [
            *OVERRIDES,
            f"trainer.max_epochs={self.epochs}",
            f"paths.log_dir={self.folder}",
            # Import by the full name: in the fork, __main__ is train.py.
            f"+callbacks.phase={{_target_: benchmarks.kill_resume.{PhaseMarker.__name__}, path: {phase}}}",
        ]
        if list(self.folder.glob(f"{TASK}/*/checkpoints/last.ckpt")):
            overrides.append("ckpt_path=last")
        child = os.fork()
        if child == 0:
            train(overrides, log)
        status = wait(child, self, kill_after, at_writing)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.kills.append(WRITING if self.writing() else PHASES[phase.read_bytes()[0]])
            self.left += self.writing()
            return False
        if status != 0:
            raise RuntimeError(f"a run ended with status {status}: {log.read_text()[-3000:]}")
        return True

    def writing(self) -> list[Path]:
        """Return the checkpoints that are being written."""
        return [path for path in self.folder.glob(f"{TASK}/*/checkpoints/*.partial") if path not in self.left]

    def result(self) -> Path:
        """Return the folder of the finished run."""
        (summary,) = self.folder.glob(f"{TASK}/*/summary.json")
        return summary.parent


def train(overrides: list[str], log: Path) -> None:
    """Run ``train.py`` in this process, a fork, and end it."""
    status = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(ROOT)
        sys.argv = [str(ROOT / "train.py"), *overrides]
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Skip the clean-up of objects that belong to the parent process.
        os._exit(status)


def wait(child: int, run: Run, kill_after: float, at_writing: float) -> int:
    """Wait for the end of a process, or kill it when its time has come; return its status as ``os.waitpid`` does."""
    writings, seen = 0, False
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if at_writing < math.inf:
            writes = bool(run.writing())
            writings, seen = writings + (writes and not seen), writes
        if processor_seconds(child) >= kill_after or writings >= at_writing:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(POLL_SECONDS)


def processor_seconds(process: int) -> float:
    """Return a process's seconds of processor time, which tell its progress even on a busy machine."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(folder: Path, kills: int, epochs: int, seed: int) -> tuple[list[Run], list[list[str]], float]:
    """Kill runs at random points until there are as many kills as wanted, and resume each run to its end.

    Returns:
        The runs, the differences of each from the uninterrupted run, and that run's processor time in seconds.
    """
    generator = random.Random(seed)
    whole = Run(folder / "whole", epochs, [])
    whole.folder.mkdir()
    before = sum(os.times()[2:4])  # user and system time of finished children
    if not whole.start():
        raise RuntimeError("the uninterrupted run was killed by another process")
    seconds = sum(os.times()[2:4]) - before
    runs: list[Run] = []
    found: list[list[str]] = []
    while sum(len(run.kills) for run in runs) < kills:
        run = Run(folder / f"run{len(runs)}", epochs, [])
        run.folder.mkdir()
        runs.append(run)
        ended = False
        for _ in range(2 if len(runs) % 3 == 0 else 1):
            if not ended and len(runs) % 5 == 0:
                ended = run.start(at_writing=generator.randint(1, MOST_WRITINGS))
            elif not ended:
                ended = run.start(kill_after=generator.uniform(0, seconds))
        if not ended and not run.start():
            raise RuntimeError("a run was killed by another process")
        found.append(differences(whole.result(), run.result()))
        kills_of_run = ", ".join(run.kills) or "nothing"
        print(f"{run.folder.name}: killed in {kills_of_run}; {found[-1] or 'identical'}", flush=True)
    return runs, found, seconds


def rows_of(runs: list[Run], found: list[list[str]], epochs: int, seconds: float) -> list[tuple[str, str]]:
    kills = Counter(phase for run in runs for phase in run.kills)
    identical = sum(not each for each in found)
    spread = ", ".join(f"{kills[phase]} in {phase}" for phase in (*PHASES, WRITING))
    return [
        (
            "Runs killed by SIGKILL and resumed, whose weights, momenta, figures and certificates are those of the "
            "uninterrupted run, bit for bit",
            f"{identical} of {len(runs)}",
        ),
        ("Kills; their places", f"{kills.total()}: {spread}"),
        ("The run that is killed", f"quickstart on the digits, {epochs} epochs, {seconds:.1f} s of one core"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs, found, seconds = measure(Path(folder), arguments.kills, arguments.epochs, arguments.seed)
    rows = rows_of(runs, found, arguments.epochs, seconds)
    for measured, seen in rows:
        print(f"{measured}: {seen}")
    write_figures("kill_resume", "Killed and resumed", 30, rows, folder=arguments.output)
    if any(found):
        raise SystemExit("a resumed run differs from the uninterrupted one")


if __name__ == "__main__":
    main()
