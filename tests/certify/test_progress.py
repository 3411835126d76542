"""The progress of a certification, on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lipnet.certify.progress import progress


class Clock:
    """Clock that a test advances."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lipnet.certify.progress.time", clock)
    return clock


def test_a_log_file_gets_a_line_now_and_then_with_rate_and_time_left(clock: Clock) -> None:
    text = io.StringIO()
    with progress(10000, 1000, Console(file=text)) as show:
        for done in range(1500, 10001, 500):
            clock.now += 4
            show(done)
    lines = text.getvalue().splitlines()
    # Every third step of four seconds; the 1000 of before have no part in the rate.
    assert lines[0] == "certified 2,500 of 10,000 images, 125.0 images/s, 60 s left"
    assert lines[-1] == "certified 10,000 of 10,000 images, 125.0 images/s"
    assert len(lines) == 6


def test_what_is_soon_done_is_a_single_line(clock: Clock) -> None:
    text = io.StringIO()
    with progress(20, console=Console(file=text)) as show:
        for done in (10, 20):
            clock.now += 1
            show(done)
    assert text.getvalue() == "certified 20 of 20 images, 10.0 images/s\n"


def test_the_last_line_comes_once(clock: Clock) -> None:
    """Processes are asked for their number of images until they have ended."""
    text = io.StringIO()
    with progress(20, console=Console(file=text)) as show:
        for done in (20, 20):
            clock.now += 1
            show(done)
    assert text.getvalue() == "certified 20 of 20 images, 20.0 images/s\n"


def test_a_slow_rate_is_given_per_minute(clock: Clock) -> None:
    text = io.StringIO()
    with progress(4, console=Console(file=text), verb="attacked") as show:
        clock.now += 96
        show(4)
    assert text.getvalue() == "attacked 4 of 4 images, 2.5 images/min\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_forced_colours_bring_no_bar_to_a_pipe(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = io.StringIO()
    with progress(20, console=Console(file=text)) as show:
        clock.now += 2
        show(20)
    assert text.getvalue() == "certified 20 of 20 images, 10.0 images/s\n"


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    text = Terminal()
    console = Console(file=text, width=120)
    with progress(10, console=console) as show:
        show(4)
    printed = text.getvalue()
    assert "4/10" in printed
    assert "images/s" in printed
    assert "left" in printed


def test_an_error_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), progress(10, console=Console(file=io.StringIO())):
        raise KeyboardInterrupt
