"""How far a certification is: a bar with rate and time left, or now and then a line where no one watches."""

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""


class CertificationProgress:
    """Shows how many images are certified; a context manager.

    On a terminal it is a bar; elsewhere, in a log file, a line every ten seconds and at the end. The rate is that of
    this start: images that were certified before count as done, not as fast.

    Args:
        total: number of images.
        done: how many are certified already.
        console: where to; None for the standard output.
    """

    def __init__(self, total: int, done: int = 0, console: Console | None = None) -> None:
        self.total, self.done, self._before = total, done, done
        self._console = console or Console()
        self._start = self._printed = time.perf_counter()
        self._stack = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        self._start = self._printed = time.perf_counter()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self._bar = self._stack.enter_context(Progress(*columns, *times, console=self._console))
            self._task = self._bar.add_task("Certifying", total=self.total, completed=self.done, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def update(self, done: int) -> None:
        """Say that so many images are certified by now."""
        self.done = done
        now = time.perf_counter()
        seconds = now - self._start
        rate = (done - self._before) / seconds if seconds > 0 else 0.0
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.1f} images/s")
        elif done == self.total or now - self._printed >= LINE_SECONDS:
            self._printed = now
            left = f", {(self.total - done) / rate:,.0f} s left" if rate > 0 and done < self.total else ""
            self._console.print(
                f"certified {done:,} of {self.total:,} images, {rate:,.1f} images/s{left}",
                highlight=False,
                soft_wrap=True,
            )
