"""Run the rows of a study as processes: each row once, several at a time, resumable, locked against other commands."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console

from lipnet.files import atomic_write

ROOT = Path(__file__).parents[1]
# Exit status of a process that was stopped and can be resumed. Not imported from lipnet, to do without torch.
UNFINISHED = 75


class Named(Protocol):
    """Row of a study; its unique name is also the name of its folder and its file."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


class RowRunner(ABC, Generic[R]):
    """Runs rows as processes, one after the other or several at a time.

    Args:
        work: folder for the runs, with a folder for each row.
        output: folder for the files of finished rows, rows/NAME.json.
        threads: number of threads of each process.
    """

    def __init__(self, work: Path, output: Path, threads: int = 1) -> None:
        self.work, self.output, self.threads = work.absolute(), output.absolute(), threads
        self.console = Console()
        self._stopped = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        # Names of the rows that ended with an error of their own. Stopped, locked and killed rows may still finish.
        self.failed: set[str] = set()

    @abstractmethod
    def command_of(self, row: R, folder: Path) -> list[str]:
        """Return the command that runs or resumes a row in its folder."""

    @abstractmethod
    def content_of(self, row: R, folder: Path) -> dict[str, Any]:
        """Return the content of a finished row's file, from its folder."""

    def perform(self, rows: Sequence[R], jobs: int = 1) -> bool:
        """Run the unfinished rows; return whether all are finished."""
        with ThreadPoolExecutor(jobs) as pool:
            return all(list(pool.map(self._row, rows)))

    def perform_ready(self, rows: Sequence[R], is_ready: Callable[[R], bool], jobs: int = 1) -> bool:
        """Run the rows that are ready, and name the others; return whether all rows are finished."""
        if self.stopped:
            return False
        ready = [row for row in rows if is_ready(row)]
        for row in rows:
            if row not in ready:
                self.console.print(f"{row.name}: waits for the trials of its learning rate")
        return self.perform(ready, jobs) and ready == list(rows)

    def stop(self, *_: object) -> None:
        """Let the running processes save their state and end; start no further row."""
        self._stopped.set()
        for process in list(self._running):
            process.terminate()

    def stop_on_signals(self) -> None:
        """Call `stop` on SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    @property
    def stopped(self) -> bool:
        """True after a call of `stop`."""
        return self._stopped.is_set()

    def file_of(self, row: R) -> Path:
        """Return the file of a finished row."""
        return self.output / "rows" / f"{row.name}.json"

    def _row(self, row: R) -> bool:
        folder = self.work / row.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.console.print(f"{row.name}: locked by another process")
                return False
            # Check under the lock: another command may have finished the row meanwhile.
            if self.file_of(row).is_file():
                return True
            if self._stopped.is_set():
                return False
            self.console.print(f"{row.name}: started or resumed")
            status = self._run(self.command_of(row, folder), folder, lock.fileno())
            if status != 0:
                stopped = status == UNFINISHED or (self._stopped.is_set() and status == -signal.SIGTERM)
                if status > 0 and not stopped:
                    self.failed.add(row.name)
                ending = "stopped, can be resumed" if stopped else f"failed with status {status}"
                self.console.print(f"{row.name}: {ending}, see {folder / 'output.log'}", soft_wrap=True)
                return False
            with atomic_write(self.file_of(row)) as file:
                file.write(json.dumps(self.content_of(row, folder), indent=1).encode() + b"\n")
        self.console.print(f"{row.name}: finished")
        return True

    def _run(self, command: Sequence[str], folder: Path, lock: int) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with (folder / "output.log").open("ab") as output:
            # The child inherits the lock, and keeps it if this process alone is killed.
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, pass_fds=[lock]
            )
            self._running.add(process)
            if self._stopped.is_set():
                process.terminate()
            status = process.wait()
            self._running.remove(process)
        return status


def stored_summary(folder: Path, *left_out: str) -> dict[str, Any]:
    """Return the summary of a folder's certificates as rows store it.

    It lacks the local path of the checkpoint, the checksum that covers this path, and the keys in ``left_out``.
    """
    summary = json.loads((folder / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key not in ("checkpoint", "sha256", *left_out)}


def command_parser(
    description: str | None, name: str, data_help: str = "folder that contains cifar-100-python"
) -> argparse.ArgumentParser:
    """Return a parser with the options that all sweeps and studies have: their folders and ``--render``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help=data_help)
    parser.add_argument("--work", type=Path, default=Path("logs", name), help="folder for the runs")
    parser.add_argument("--output", type=Path, default=Path("results", name), help="folder for the finished rows")
    parser.add_argument("--render", action="store_true", help="only make tables and picture from the finished rows")
    return parser
