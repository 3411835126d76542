"""certify.py from the command line: killed, resumed by two processes, checked again, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lipnet.certify import read_certificates
from lipnet.certify.files import FILES
from lipnet.certify.partial import PARTIAL, PartialCertification
from lipnet.commands.certify import _checkpoint_of
from lipnet.models import PRETRAINED
from lipnet.workflows import certify_checkpoint

ROOT = Path(__file__).parents[2]


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "certify.py"), f"paths.log_dir={folder}/logs", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str], status: int) -> str:
    """Return the output of a process, which must end with this status."""
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == status, printed
    return printed


@pytest.mark.slow
def test_a_killed_certification_is_resumed_by_two_processes_and_confirmed(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    settings = [f"ckpt_path={tiny_checkpoint}", f"output_dir={tmp_path}/out", "batch_size=1"]
    killed = start(tmp_path, *settings)
    partial = PartialCertification(tmp_path / "out" / PARTIAL)
    while len(partial.batches()) < 5:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    done = len(partial.batches())
    assert 5 <= done < 359
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PARTIAL]

    assert "resume=true continues it" in ended(start(tmp_path, *settings), 1)
    ended(start(tmp_path, *settings, "trainer=ddp_cpu", "resume=true"), 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    certify_checkpoint(tiny_checkpoint, tmp_path / "whole", batch_size=1, device="auto")
    resumed, whole = (tmp_path / name / FILES[0] for name in ("out", "whole"))
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_the_exit_status_of_a_check(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=50)
    path = tmp_path / "out" / FILES[0]
    assert "all 50 certificates are confirmed" in ended(start(tmp_path, f"verify={path}"), 0)
    row = next(iter(read_certificates(path).rows.values()))
    path.write_text(path.read_text().replace(row.radius, "3.000000000", 1))
    printed = ended(start(tmp_path, f"verify={path}", f"ckpt_path={tiny_checkpoint}"), 2)
    assert f"idx {row.idx}: radius 3.000000000 claims more than {row.radius}" in printed
    assert "1 differences in 50 certificates" in printed
    assert "error: ckpt_path must name the checkpoint to certify" in ended(start(tmp_path), 1)
    assert not [*tmp_path.rglob(".hydra")], "a command that wrote no certificates leaves no folder"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["good", "other"], 0),
        (["good", "bad"], 2),
        (["bad", "good"], 2),
        (["bad", "missing", "good"], 2),
        (["missing", "good"], 1),
    ],
)
def test_every_file_of_a_multirun_is_checked(
    tmp_path: Path, tiny_checkpoint: Path, names: list[str], status: int
) -> None:
    for name, count in (("good", 5), ("other", 6), ("bad", 7)):
        certify_checkpoint(tiny_checkpoint, tmp_path / name, n_samples=count)
    bad = tmp_path / "bad" / FILES[0]
    row = next(iter(read_certificates(bad).rows.values()))
    bad.write_text(bad.read_text().replace(row.radius, "3.000000000", 1))
    paths = ",".join(str(tmp_path / name / FILES[0]) for name in names)
    settings = [f"ckpt_path={tiny_checkpoint}", f"hydra.sweep.dir={tmp_path}/sweep"]
    printed = " ".join(ended(start(tmp_path, f"verify={paths}", *settings, "-m"), status).split())
    expected = {
        "good": "all 5 certificates are confirmed",
        "other": "all 6 certificates are confirmed",
        "bad": "1 differences in 7 certificates",
        "missing": "error: there is no file of certificates",
    }
    assert all((sentence in printed) == (name in names) for name, sentence in expected.items())
    failed = len({"bad", "missing"}.intersection(names))
    assert (f"{failed} of {len(names)} runs failed" in printed) == (failed > 0)


@pytest.mark.slow
def test_a_pretrained_network_is_certified_with_a_report_and_compared(tmp_path: Path) -> None:
    for name, count in (("one", 5), ("two", 6)):
        settings = [f"output_dir={tmp_path}/{name}", f"n_samples={count}", "report=html"]
        printed = ended(start(tmp_path, "pretrained=digits-quickstart", *settings), 0)
        assert "to look at: report.html" in printed
        assert "digits-quickstart 91,290" in " ".join(printed.split())
    page = (tmp_path / "two" / "report.html").read_text()
    assert "certify.py paths.log_dir=" in page
    assert "pretrained=digits-quickstart" in page
    ended(start(tmp_path, f"compare={tmp_path}/one,{tmp_path}/two", f"output_dir={tmp_path}/both"), 0)
    assert "2 runs compared" in (tmp_path / "both" / "compare.html").read_text()


def test_a_command_names_one_checkpoint_at_most() -> None:
    config = OmegaConf.create({"ckpt_path": "best.ckpt", "pretrained": "digits-quickstart"})
    with pytest.raises(ValueError, match=r"ckpt_path=best\.ckpt and pretrained=digits-quickstart exclude each other"):
        _checkpoint_of(config)
    config.ckpt_path = None
    assert _checkpoint_of(config) == PRETRAINED["digits-quickstart"] / "model.safetensors"
    config.pretrained = None
    assert _checkpoint_of(config) is None


def test_the_hub_without_its_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    config = OmegaConf.create({"ckpt_path": None, "pretrained": "owner/name"})
    with pytest.raises(ValueError, match=r"pip install 'lipnet\[hub\]'"):
        _checkpoint_of(config)
