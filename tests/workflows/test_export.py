"""Export of a checkpoint to a file, and its errors."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from lipnet.certify import CertificateFileError, lipschitz_bound
from lipnet.certify.export import METADATA_FILE
from lipnet.certify.export import onnx as onnx_file
from lipnet.certify.files import sealed, summary_bytes, unsealed
from lipnet.models import load_checkpoint, load_pretrained, save_checkpoint
from lipnet.workflows import certify_checkpoint, export_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_checkpoint_becomes_a_file(
    tmp_path: Path, tiny_checkpoint: Path, tiny_model: nn.Module, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt2"
    metadata = export_checkpoint(tiny_checkpoint, path, dtype=dtype)
    extra = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra[METADATA_FILE]) == metadata
    assert (metadata["dataset"], metadata["dtype"]) == ("digits", dtype)
    assert metadata["checkpoint_sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    model = tiny_model.to(getattr(torch, dtype))
    assert metadata["lipschitz_bound"] == lipschitz_bound(model)
    x = torch.rand(3, 1, 8, 8, dtype=getattr(torch, dtype))
    torch.testing.assert_close(program(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    assert "inputs are pixels in [0, 1], the Lipschitz bound is 2.66" in capsys.readouterr().out


def test_names_of_the_classes_come_from_the_checkpoint(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]
) -> None:
    names = [f"class {number}" for number in range(10)]
    save_checkpoint(tmp_path / "own.ckpt", tiny_model, tiny_config, {"name": "folder", "classes": names})
    assert export_checkpoint(tmp_path / "own.ckpt", tmp_path / "model.pt2")["class_names"] == names


@pytest.mark.slow
def test_the_ending_names_the_kind(tmp_path: Path, tiny_checkpoint: Path) -> None:
    names = [str(number) for number in range(10)]
    export_checkpoint(tiny_checkpoint, tmp_path / "model.onnx", class_names=names)
    stored = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(stored["class_names"]) == names


def test_a_run_becomes_a_folder_to_share_with_its_figures(
    tmp_path: Path, tiny_checkpoint: Path, tiny_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    export_checkpoint(tiny_checkpoint, tmp_path / "plain")
    assert "without certified figures" in capsys.readouterr().out

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tiny_checkpoint, run / "checkpoints" / "best.ckpt")
    summary = certify_checkpoint(run, run, n_samples=10)
    facts = export_checkpoint(run, tmp_path / "network")
    assert facts["checkpoint_sha256"] == summary["checkpoint_sha256"]
    assert f"{100 * summary['clean_accuracy']:.2f}" in (tmp_path / "network" / "README.md").read_text()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(load_pretrained(tmp_path / "network")(x), tiny_model(x))
    with pytest.raises(FileExistsError, match="already holds"):
        export_checkpoint(run, tmp_path / "network")
    card = (tmp_path / "network" / "README.md").read_text()
    (run / "summary.json").write_bytes(summary_bytes(sealed({**unsealed(summary), "clean_accuracy": 0.999})))
    with pytest.raises(CertificateFileError, match="not as lipnet writes it: clean_accuracy"):
        export_checkpoint(run, tmp_path / "network", overwrite=True)
    (run / "certificates.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no certificates\.tsv"):
        export_checkpoint(run, tmp_path / "network", overwrite=True)
    assert (tmp_path / "network" / "README.md").read_text() == card
    (run / "summary.json").unlink()
    export_checkpoint(run, tmp_path / "network", overwrite=True, name="owner/other")
    assert 'load_pretrained("owner/other")' in (tmp_path / "network" / "README.md").read_text()


def test_a_compact_folder_gets_its_figures_from_its_own_certificates(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, small = tmp_path / "run", tmp_path / "small"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(tiny_checkpoint, run / "checkpoints" / "best.ckpt")
    certify_checkpoint(run, run, n_samples=10)
    export_checkpoint(run, small, compact=True)
    assert "without certified figures" in capsys.readouterr().out

    summary = certify_checkpoint(small, small, n_samples=10)
    weights = (small / "model.safetensors").read_bytes()
    export_checkpoint(small, small, compact=True, overwrite=True)
    assert f"{100 * summary['clean_accuracy']:.2f}" in (small / "README.md").read_text()
    assert (small / "model.safetensors").read_bytes() == weights
    assert load_checkpoint(small / "model.safetensors").sha256 == summary["checkpoint_sha256"]


@pytest.mark.parametrize(
    ("output", "settings", "message"),
    [
        ("model.pth", {}, r"output must end in \.onnx or \.pt2, or be a folder's name without a dot, got"),
        ("folder", {"dtype": "float64"}, r"input_shape, dtype and class_names are for files .* got the folder"),
        ("model.pt2", {"name": "owner/name"}, "name and compact are for folders, got the file"),
        ("model.onnx", {"compact": True}, "name and compact are for folders, got the file"),
        ("model.pt2", {"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ("model.pt2", {"input_shape": (1, 9, 9)}, r"images must have shape \(B, 1, 8, 8\)"),
    ],
)
def test_settings_that_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, output: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_checkpoint(tiny_checkpoint, tmp_path / output, **settings)
    assert list(tmp_path.iterdir()) == [tiny_checkpoint]


@pytest.mark.slow
def test_a_file_that_exists_is_replaced_only_on_request(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        export_checkpoint(tiny_checkpoint, path)
    assert path.read_text() == "mine"
    export_checkpoint(tiny_checkpoint, path, overwrite=True)
    assert path.read_bytes() != b"mine"


def test_missing_packages_are_an_error_of_one_line(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"model\.onnx cannot be written: .* pip install 'lipnet\[onnx\]'"):
        export_checkpoint(tiny_checkpoint, tmp_path / "model.onnx")


@pytest.mark.slow
def test_the_command(tmp_path: Path, tiny_checkpoint: Path) -> None:
    command = [sys.executable, str(ROOT / "export.py"), f"ckpt_path={tiny_checkpoint}"]
    done = subprocess.run([*command, "output=model.pt2"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the Lipschitz bound is" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {tiny_checkpoint.name, "model.pt2"}
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: output must name a file or a folder to write, got nothing")
