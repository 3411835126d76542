"""The record of a run holds progress and time over all its starts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import nn

import lipnet
from lipnet.training import CertifiedClassifier, Distillation, LastCheckpoint, RunRecord
from lipnet.training.run_record import commit, hardware
from tests.training.runs import Interrupted, KillAfter, best_checkpoint, fit


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def run(
    config: dict[str, Any], folder: Path, ckpt_path: Path | None = None, *callbacks: Callback, **settings: Any
) -> None:
    record = RunRecord(folder / "run.json", seed=7)
    fit(config, folder, ckpt_path, callbacks=[best_checkpoint(folder), record, *callbacks], **settings)


def test_a_run_that_came_to_its_end(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    run(tiny_config, tmp_path)
    record = record_of(tmp_path)
    assert (record["seed"], record["finished"]) == (7, True)
    assert (record["epochs"], record["planned_epochs"], record["steps"]) == (2, 2, 42)
    (start,) = record["starts"]
    assert record["seconds"] == start["seconds"] > 0
    assert start["first_step"] == 0
    assert start["versions"]["torch"] == torch.__version__
    assert start["versions"]["lipnet"] == lipnet.__version__
    assert start["hardware"] == {**hardware(torch.device("cpu")), "processes": 1}
    assert start["precision"] == "32-true"


def test_a_record_holds_that_of_the_teacher(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    for earlier in (None, {"seconds": 420.0}):
        distillation = Distillation(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), run=earlier)
        module = CertifiedClassifier(tiny_config, num_classes=10, distillation=distillation)
        fit(tiny_config, tmp_path, module=module, callbacks=[RunRecord(tmp_path / "run.json")], max_epochs=1)
        assert record_of(tmp_path)["teacher"] == {"sha256": distillation.sha256, "run": earlier}


@pytest.mark.slow
def test_a_run_that_was_cut_says_so_and_adds_its_times(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    with pytest.raises(Interrupted):
        run(tiny_config, tmp_path, None, KillAfter(30))
    cut = record_of(tmp_path)
    assert (cut["finished"], cut["epochs"], cut["planned_epochs"], cut["steps"]) == (False, 1, 2, 30)
    run(tiny_config, tmp_path, tmp_path / "last.ckpt")
    whole = record_of(tmp_path)
    assert (whole["finished"], whole["epochs"], whole["steps"]) == (True, 2, 42)
    assert whole["starts"][0] == cut["starts"][0]
    assert whole["starts"][1]["first_step"] == 21, "it went on from the end of an epoch"
    assert whole["seconds"] == pytest.approx(sum(start["seconds"] for start in whole["starts"]), abs=0.11)


class KillAtTheEnd(Callback):
    """Callback that ends a program after the last checkpoint of its training."""

    def on_train_end(self, *_: Any) -> None:
        raise Interrupted


def test_a_run_that_was_killed_at_its_end_is_finished_when_resumed(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Nothing is left to train. A later start, which may only certify, leaves the record as it is."""
    settings, path = {"limit_train_batches": 2, "limit_val_batches": 1}, tmp_path / "latest.ckpt"
    with pytest.raises(Interrupted):
        run(tiny_config, tmp_path, None, KillAtTheEnd(), LastCheckpoint(path), **settings)
    assert not record_of(tmp_path)["finished"]
    for _ in range(2):
        run(tiny_config, tmp_path, path, LastCheckpoint(path), **settings)
        record = record_of(tmp_path)
        assert (record["finished"], record["epochs"], record["steps"]) == (True, 2, 4)
        assert [start["first_step"] for start in record["starts"]] == [0, 4]


def test_another_run_in_the_same_folder_begins_anew(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    for _ in range(2):
        run(tiny_config, tmp_path, limit_train_batches=1, max_epochs=1)
    assert len(record_of(tmp_path)["starts"]) == 1


def test_no_epochs_are_planned_where_a_time_is_the_plan(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    run(tiny_config, tmp_path, max_epochs=-1, max_steps=3)
    record = record_of(tmp_path)
    assert (record["planned_epochs"], record["finished"], record["steps"]) == (None, True, 3)


def test_a_run_with_a_sanity_check_is_recorded_from_its_start(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    run(tiny_config, tmp_path, num_sanity_val_steps=1, limit_train_batches=1, limit_val_batches=1)
    record = record_of(tmp_path)
    assert (record["finished"], record["steps"], len(record["starts"])) == (True, 2, 1)


def test_a_fast_development_run_writes_nothing(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    run(tiny_config, tmp_path, fast_dev_run=True)
    assert not (tmp_path / "run.json").exists()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lipnet" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(lipnet, "__file__", str(package))
    assert commit() is None, "no checkout"
    git(tmp_path, "init", "-q")
    assert commit() is None, "no commit yet"
    git(tmp_path, "add", "lipnet")
    git(tmp_path, "commit", "-qm", "one")
    clean = git(tmp_path, "rev-parse", "HEAD")
    assert commit() == clean
    package.write_text("changed = True\n")
    assert commit() == f"{clean}-dirty"
