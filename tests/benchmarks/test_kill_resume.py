"""Runs that are killed and resumed end like the uninterrupted one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.run_differences import differences, figures_of
from lipnet.certify.files import Row, certificate_bytes
from lipnet.models.archive import read_archive, write_archive

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


def finished_run(folder: Path, content: dict[str, Any], weight: float, momentum: float, radius: str, loss: str) -> Path:
    """Write the files that the comparison reads, with ``content`` as the description of the model."""
    parts = {
        "state_dict": {"model.weight": torch.tensor([weight])},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.tensor([momentum])}}}],
        "lr_schedulers": [],
        "epoch": 1,
        "global_step": 2,
    }
    for name in ("best.ckpt", "last.ckpt"):
        write_archive(folder / "checkpoints" / name, content | parts)
    facts = {"n_samples": 1, "checkpoint_sha256": folder.name}
    (folder / "certificates.tsv").write_bytes(certificate_bytes(facts, [Row(0, 1, 1, radius, 1)]))
    (folder / "csv").mkdir()
    (folder / "csv" / "metrics.csv").write_text(f"step,train/loss,val/loss\n1,2.5,\n2,,{loss}\n")
    return folder


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"weight": 1 + 2**-23}, ["best.ckpt: state_dict", "last.ckpt: state_dict"]),
        ({"momentum": -0.0}, ["best.ckpt: optimizer_states", "last.ckpt: optimizer_states"]),
        ({"radius": "0.250000001"}, ["certificates"]),
        ({"loss": "1.25"}, ["figure (2, 'val/loss')"]),
        ({"loss": ""}, ["figure (2, 'val/loss') is missing"]),
    ],
)
def test_every_difference_is_named(
    change: dict[str, Any], found: list[str], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    content, _ = read_archive(tiny_checkpoint)
    run = {"weight": 1.0, "momentum": 0.0, "radius": "0.250000000", "loss": "1.5"}
    whole = finished_run(tmp_path / "whole", content, **run)
    assert differences(whole, finished_run(tmp_path / "other", content, **run | change)) == found
