"""A job that Slurm requeues continues, with Lightning's own signal handlers beside lipnet's."""

from __future__ import annotations

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lipnet.certify import read_certificates
from lipnet.certify.partial import PARTIAL
from lipnet.training.last_checkpoint import UNFINISHED

ROOT = Path(__file__).parents[2]
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "localhost",
}
QUIET = ("callbacks.progress_bar=null", "callbacks.model_summary=null", "trainer.enable_progress_bar=false")
EPOCHS = 12


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment of a job, with a scontrol that records its arguments and ends the process, as Slurm does."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nkill -TERM $PPID\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, **JOB, "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def start(run: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    # Every start uses the same folder, where Lightning finds its checkpoint.
    settings = ["experiment=quickstart", "logger=csv", f"trainer.max_epochs={EPOCHS}", f"hydra.run.dir={run}", *QUIET]
    command = [sys.executable, str(ROOT / "train.py"), *settings, *overrides]
    return subprocess.Popen(
        command, env=environment, cwd=run.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file exists; fail if the process ends earlier."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def content_of(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def newest_step(run: Path) -> int:
    """The most steps of the checkpoints that a requeued run and the SIGTERM after it left, one step later at most."""
    return max(int(content_of(path)["global_step"]) for path in (run / "hpc_ckpt_1.ckpt", *run.rglob("last.ckpt")))


def first_steps(run: Path) -> list[int]:
    """The step from which each start of a run went on."""
    return [each["first_step"] for each in json.loads((run / "run.json").read_text())["starts"]]


@pytest.mark.slow
def test_a_requeued_job_ends_as_the_one_that_was_left_alone(tmp_path: Path, environment: dict[str, str]) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    alone = start(whole, environment)
    first = start(run, environment)
    wait_for(run / "checkpoints" / "last.ckpt", first)
    first.send_signal(signal.SIGUSR1)
    printed = first.communicate(timeout=300)[0]
    assert first.returncode == UNFINISHED, printed
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    saved = newest_step(run)
    assert 0 < saved < EPOCHS * 21
    assert not (run / "summary.json").exists()

    again = start(run, {**environment, "SLURM_RESTART_COUNT": "1"})
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert first_steps(run) == [0, saved]
    with (run / "csv" / "metrics.csv").open() as file:
        epochs = {int(row["epoch"]) for row in csv.DictReader(file) if row["epoch"]}
    assert epochs == set(range(EPOCHS)), "the figures of the first start are gone"
    printed = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, printed
    one, other = (content_of(folder / "checkpoints" / "last.ckpt") for folder in (run, whole))
    assert one["global_step"] == other["global_step"] == EPOCHS * 21
    assert all(torch.equal(weight, other["state_dict"][name]) for name, weight in one["state_dict"].items())
    rows = [read_certificates(folder / "certificates.tsv").rows for folder in (run, whole)]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_job_that_is_requeued_after_a_kill_continues(tmp_path: Path, environment: dict[str, str]) -> None:
    """A node fails, so that Lightning saves nothing, once after an earlier requeue by a signal."""
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    first = start(run, environment)
    wait_for(last, first)
    first.send_signal(signal.SIGUSR1)
    printed = first.communicate(timeout=300)[0]
    assert first.returncode == UNFINISHED, printed
    assert (run / "hpc_ckpt_1.ckpt").is_file()
    earlier = newest_step(run)

    second = start(run, {**environment, "SLURM_RESTART_COUNT": "1"})
    while content_of(last)["global_step"] <= earlier:
        assert second.poll() is None, second.communicate()[0]
        time.sleep(0.05)
    second.kill()
    second.communicate()
    saved = content_of(last)["global_step"]

    third = start(run, {**environment, "SLURM_RESTART_COUNT": "2"})
    printed = third.communicate(timeout=300)[0]
    assert third.returncode == 0, printed
    assert first_steps(run) == [0, earlier, saved]
    assert content_of(last)["global_step"] == EPOCHS * 21


@pytest.mark.slow
def test_a_job_that_is_told_to_end_saves_says_so_and_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    """This holds with and without Lightning's Slurm plugin, which passes SIGTERM on."""
    run = tmp_path / "run"
    first = start(run, environment)
    wait_for(run / "checkpoints" / "last.ckpt", first)
    first.send_signal(signal.SIGTERM)
    printed = first.communicate(timeout=300)[0]
    assert first.returncode == UNFINISHED, printed
    last = run / "checkpoints" / "last.ckpt"
    assert f"resume with ckpt_path={last}" in printed
    assert not (tmp_path / "asked").exists()
    again = start(run, environment, f"ckpt_path={last}")
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert content_of(last)["global_step"] == EPOCHS * 21


@pytest.mark.slow
def test_a_job_that_reaches_its_limit_in_the_certification_is_requeued(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Lightning answers Slurm's signal in the training alone."""
    run, settings = tmp_path / "run", ("trainer.max_epochs=1", "certify.batch_size=1")
    first = start(run, environment, *settings)
    wait_for(run / PARTIAL, first)
    first.send_signal(signal.SIGUSR1)
    printed = first.communicate(timeout=300)[0]
    assert first.returncode == UNFINISHED, printed
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert not (run / "summary.json").exists()
    again = start(run, {**environment, "SLURM_RESTART_COUNT": "1"}, *settings)
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert first_steps(run) == [0], "the training is not repeated"
    assert len(read_certificates(run / "certificates.tsv").rows) == 359
