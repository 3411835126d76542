"""Progress of work on many images: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Time between two lines of progress where there is no terminal."""


@contextmanager
def progress(
    total: int, done: int = 0, console: Console | None = None, verb: str = "certified"
) -> Iterator[Callable[[int], None]]:
    """Show how many images are done: a bar on a terminal, a line every ten seconds elsewhere.

    The rate only counts images of this run, although images that an earlier run certified count as done.

    Args:
        total: number of images.
        done: number of images that are done already.
        console: None for the standard output.
        verb: past participle for the images: "certified" or "attacked".

    Yields:
        A function to call with the number of images that are done by now.
    """
    console = console or Console()
    start = printed = time.perf_counter()
    ended = False

    def rate_at(now: float, by_now: int) -> float:
        return (by_now - done) / (now - start) if now > start else 0.0

    def in_words(rate: float) -> str:
        return f"{rate:,.1f} images/s" if rate >= 1 or rate == 0 else f"{60 * rate:.1f} images/min"

    def line(by_now: int) -> None:
        nonlocal printed, ended
        now = time.perf_counter()
        # The last line comes once, although processes are polled until they have ended.
        if ended or (by_now < total and now - printed < LINE_SECONDS):
            return
        printed, ended, rate = now, by_now == total, rate_at(now, by_now)
        left = f", {(total - by_now) / rate:,.0f} s left" if rate > 0 and by_now < total else ""
        text = f"{verb} {by_now:,} of {total:,} images, {in_words(rate)}{left}"
        console.print(text, highlight=False, soft_wrap=True)

    # Not console.is_terminal: FORCE_COLOR, which Jupyter sets, makes it true for pipes, where cursor moves are noise.
    if not console.file.isatty():
        yield line
        return
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as bar:
        task = bar.add_task("", total=total, completed=done, rate="")
        yield lambda by_now: bar.update(task, completed=by_now, rate=in_words(rate_at(time.perf_counter(), by_now)))
