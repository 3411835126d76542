"""Runs that are killed and resumed end as the one that was left alone; and the benchmark would tell if not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kill_resume import figures_of, same

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_three_kills(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.kill_resume",
        "--kills",
        "3",
        "--epochs",
        "3",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (runs, kills, _) = json.loads((tmp_path / "kill_resume.json").read_text())["rows"]
    identical, total = map(int, runs[1].split(" of "))
    assert identical == total > 0
    assert int(kills[1].split(":")[0]) >= 3


def test_a_single_bit_is_a_difference() -> None:
    state = {"weight": torch.tensor([1.0, float("nan")]), "groups": [{"lr": 0.1, "params": [0, 1]}], "none": None}
    other = {**state, "weight": torch.tensor([1.0, float("nan")])}
    assert same(state, other)
    assert not same(state, {**state, "weight": torch.tensor([1.0 + 2**-23, float("nan")])})
    assert not same(state, {**state, "groups": [{"lr": 0.1 + 2**-56, "params": [0, 1]}]})
    assert not same(state, {**state, "groups": []})
    assert not same(state, {**state, "more": 1})


def test_figures_of_all_starts_are_brought_together(tmp_path: Path) -> None:
    """The last line of a start may have been cut by the kill."""
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
