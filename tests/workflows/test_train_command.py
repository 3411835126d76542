"""train.py as a program: two processes finish and end together, and status 0 means certified."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ["experiment=quickstart", "model.initial_channels=8", "logger=[]", "certify.n_samples=20"]


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *QUICKSTART, f"hydra.run.dir={folder}", *overrides]
    # A group of its own, so that a test that fails leaves no process behind.
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def end_of(process: subprocess.Popen[str], seconds: float) -> str:
    """The output of a process that ends in time."""
    try:
        return process.communicate(timeout=seconds)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("eval_batch_size", [256, 71], ids=["equal", "unequal"])
def test_two_processes_finish_and_certify(tmp_path: Path, eval_batch_size: int) -> None:
    """143 validation images are 72 and 71: with batches of 71 one process validates two batches, the other one."""
    settings = ["trainer=ddp_cpu", "trainer.max_epochs=2", f"data.eval_batch_size={eval_batch_size}"]
    process = start(tmp_path / "run", *settings)
    output = end_of(process, seconds=400)
    assert process.returncode == 0, output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["n_samples"] == 20
    assert "epoch 1: train/loss" in output
    assert "epoch 1: train/loss" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
def test_two_processes_do_not_resume_the_training_of_one(tmp_path: Path) -> None:
    short = ["trainer.max_epochs=1", "certify=null", "scheduler=constant"]
    first = start(tmp_path / "run", "trainer=cpu", *short)
    output = end_of(first, seconds=400)
    assert first.returncode == 0, output
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    more = ["trainer=ddp_cpu", *short, "trainer.max_epochs=2", f"ckpt_path={last}"]
    second = start(tmp_path / "run", *more)
    output = end_of(second, seconds=400)
    assert second.returncode != 0
    assert "number of processes: 1 in the checkpoint, 2 here" in output


@pytest.mark.slow
def test_sigterm_ends_both_processes_with_a_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "trainer=ddp_cpu", "trainer.max_epochs=500")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert last.exists()
    process.send_signal(signal.SIGTERM)
    output = end_of(process, seconds=100)
    assert process.returncode == 75, output
    assert group_ends(process.pid, seconds=30)


def group_ends(group: int, seconds: float) -> bool:
    """Wait until no process of a group is left; the second process ends a little after the first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
def test_status_0_means_certified_without_a_validation(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=2")
    output = end_of(process, seconds=200)
    assert process.returncode == 0, output
    assert (tmp_path / "run" / "certificates.tsv").exists()


PACKAGE = """
from torch import nn

from lipnet.layers import SOCLinear


class MyNetwork(nn.Sequential):
    def __init__(self, num_classes, in_channels, image_size, mean, std):
        super().__init__(nn.Flatten(), SOCLinear(in_channels * image_size**2, num_classes))
"""


@pytest.mark.slow
def test_a_trusted_package_may_be_in_the_folder_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(PACKAGE)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: my_package.MyNetwork\n")
    # As an installed console script does, -P leaves the folder out of the path.
    program = [sys.executable, "-P", "-c", "from lipnet.commands.train import main; main()"]
    settings = ["--config-dir", "conf", "model=mine", "data=digits", "trust=[my_package]", "debug=fast", "certify=null"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([*program, *settings], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "MyNetwork: " in result.stdout


# Started by torchrun: train.py, with more arguments in the process with rank 1.
UNEQUAL = """
import os, runpy, sys
sys.argv = [sys.argv[1], *sys.argv[2:-1], *([sys.argv[-1]] if os.environ["RANK"] == "1" else [])]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("optimizer.lr=0.02", "optimizer.lr: 0.1 in the first, 0.02 here"),
        ("seed=1", "seed: 0 in the first, 1 here"),
        ("loss=certificate_regularization", "loss._target_: .* in the first, .*Regularization here"),
    ],
)
def test_processes_with_other_settings_are_refused(tmp_path: Path, change: str, difference: str) -> None:
    (tmp_path / "unequal.py").write_text(UNEQUAL)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = [*QUICKSTART, "trainer=ddp_cpu", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}", change]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*torchrun, str(tmp_path / "unequal.py"), str(ROOT / "train.py"), *settings]
    result = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
    assert result.returncode != 0
    assert re.search(f"all processes of a training must have the same settings.*{difference}", result.stderr), (
        result.stderr[-2000:]
    )
    assert not (tmp_path / "run" / "summary.json").exists()
