"""Certification by processes that torchrun starts: the file of one process, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipnet.workflows import certify_checkpoint
from lipnet.workflows.launch import Launch, device_of_launch, launch_of_process

ROOT = Path(__file__).parents[2]
SLURM = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NAME": "job",
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "node[1-2]",
}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", *SLURM):
        monkeypatch.setenv(name, "")  # so that what a test's call writes is undone
        monkeypatch.delenv(name)


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, str(ROOT / "certify.py"), *arguments], env=environment, text=True, capture_output=True
    )


@pytest.mark.slow
def test_two_processes_of_torchrun_write_the_file_of_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    settings = ["batch_size=11", "n_samples=60", "device=cpu", f"hydra.run.dir={tmp_path / 'hydra'}"]
    result = torchrun(str(tiny_checkpoint), *settings, f"output_dir={tmp_path / 'two'}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Certificates, summary and curve are in") == 1
    certify_checkpoint(tiny_checkpoint, tmp_path / "one", device="cpu", batch_size=11, n_samples=60)
    one, two = (tmp_path / name / "certificates.tsv" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "two" / "certificates.partial").exists()


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_all_and_writes_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "certificates.tsv").touch()
    settings = ["device=cpu", f"hydra.run.dir={tmp_path / 'hydra'}"]
    result = torchrun(str(tiny_checkpoint), *settings, f"output_dir={tmp_path}")
    assert result.returncode != 0
    assert "already holds certificates.tsv" in result.stderr
    assert (tmp_path / "certificates.tsv").read_bytes() == b""


@pytest.mark.slow
def test_one_of_two_processes_verifies_and_compares(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in ("one", "two"):
        certify_checkpoint(tiny_checkpoint, tmp_path / name, device="cpu", n_samples=60)
    settings = ["device=cpu", f"hydra.run.dir={tmp_path / 'hydra'}"]
    result = torchrun(f"verify={tmp_path / 'one' / 'certificates.tsv'}", f"ckpt_path={tiny_checkpoint}", *settings)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all 60 certificates are confirmed") == 1
    result = torchrun(f"compare={tmp_path / 'one'},{tmp_path / 'two'}", f"output_dir={tmp_path / 'page'}", *settings)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "page" / "compare.html").is_file()


def test_a_process_alone_is_no_launch() -> None:
    assert launch_of_process() is None


def test_torchrun_names_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launch_of_process() == Launch(3, 1, 4)


@pytest.mark.parametrize("step", ["4", None])
def test_srun_names_the_process_and_a_batch_script_is_alone(monkeypatch: pytest.MonkeyPatch, step: str | None) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    if step is None:
        assert launch_of_process() is None
        return
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", step)
    assert launch_of_process() == Launch(3, 1, 4)
    assert (os.environ["MASTER_ADDR"], os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("node1", "3", "4")


def test_each_process_takes_the_device_of_its_number() -> None:
    launch = Launch(3, 1, 4)
    assert device_of_launch(launch, "cpu", None) == "cpu"
    assert device_of_launch(launch, "auto", {"accelerator": "cpu", "devices": 2, "num_nodes": 2}) == "cpu"
    with pytest.raises(ValueError, match="got 4 processes"):
        device_of_launch(launch, "auto", {"accelerator": "cpu", "devices": 3, "num_nodes": 2})
    with pytest.raises(ValueError, match="leave out device=cpu"):
        device_of_launch(launch, "cpu", {"accelerator": "cpu", "devices": 2})
