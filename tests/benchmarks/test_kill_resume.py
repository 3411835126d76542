"""Runs that are killed and resumed end like the uninterrupted one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.run_differences import figures_of

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_kills(tmp_path: Path) -> None:
    arguments = ["--kills", "3", "--epochs", "3", "--output", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.kill_resume", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (runs, kills, _) = json.loads((tmp_path / "kill_resume.json").read_text())["rows"]
    identical, total = map(int, runs[1].split(" of "))
    assert identical == total > 0
    assert int(kills[1].split(":")[0]) >= 3


def test_figures_of_all_starts_are_merged(tmp_path: Path) -> None:
    """The kill may have cut the last line of a start."""
    for folder, text in (
        ("csv", "epoch,step,train/loss,val/loss\n0,19,2.5,\n0,20,,1.5\n1,2"),
        ("csv/resumed_1", "epoch,step,train/loss,val/loss\n1,41,,1.25\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.csv").write_text(text)
    figures = figures_of(tmp_path)
    assert figures[19, "train/loss"] == "2.5"
    assert figures[20, "val/loss"] == "1.5"
    assert figures[41, "val/loss"] == "1.25"
    assert all(step != 2 for step, _ in figures)
