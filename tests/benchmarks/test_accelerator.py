"""The command for accelerators keeps to its budget, and records every step before the next one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accelerator
from benchmarks.accelerator import MODES, Session, Step, measurements, training
from benchmarks.networks import SHAPES, networks

CPU = torch.device("cpu")


def record(folder: Path) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = json.loads((folder / "accelerator.json").read_text())["steps"]
    return steps


def test_steps_are_recorded_whether_they_succeed_or_not(tmp_path: Path) -> None:
    session = Session(tmp_path, 60, {"device": "D"})
    assert session.run(Step("works", [sys.executable, "-c", "print('figures')"]))
    assert not session.run(Step("fails", [sys.executable, "-c", "import sys; print('why'); sys.exit(3)"]))
    names = [(step["name"], step["status"], step["printed"]) for step in record(tmp_path)]
    assert names == [("works", "finished", ["figures"]), ("fails", "failed with status 3", ["why"])]


def test_a_step_has_its_share_of_the_time_left(tmp_path: Path) -> None:
    session = Session(tmp_path, 4, {})
    assert not session.run(Step("slow", [sys.executable, "-c", "import time; time.sleep(60)"], share=0.1))
    assert session.left > 2
    session.end = 0
    assert not session.run(Step("late", [sys.executable, "-c", ""]))
    slow, late = record(tmp_path)
    assert str(slow["status"]).startswith("stopped after")
    assert late["status"] == "no time left"


def test_every_mode_of_both_benchmarks_is_measured(tmp_path: Path) -> None:
    steps = measurements(tmp_path, torch.device("cuda"), tiny=False)
    assert [step.name for step in steps] == [
        f"{module}, {mode}" for module in ("lipconvnet", "networks") for mode in MODES
    ]
    assert all("cuda" in step.command for step in steps)


def test_the_training_is_the_speedrun(tmp_path: Path) -> None:
    command = training(tmp_path, tmp_path, torch.device("cuda"), ["seed=1"])
    assert {"experiment=speedrun/cifar100", "trainer.accelerator=gpu", "seed=1"} <= set(command)


def test_a_budget_that_is_not_positive_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        accelerator.main(["--minutes", "0"])
    assert "minutes must be positive, got 0" in capsys.readouterr().err


def test_tiny_networks_have_the_outputs_of_the_others() -> None:
    assert set(networks("tiny")) == set(networks("full"))
    for make in networks("tiny").values():
        assert make().eval()(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert set(SHAPES) == {"tiny", "full"}


@pytest.mark.slow
def test_the_command_runs_on_a_cpu(tmp_path: Path) -> None:
    options = ["--tiny", "--device", "cpu", "--work", str(tmp_path / "work")]
    assert accelerator.main([*options, "--minutes", "10", "--output", str(tmp_path / "out")]) == 0
    assert [(step["name"], step["status"]) for step in record(tmp_path / "out")] == [
        ("smoke test", "finished"),
        ("networks, plain", "finished"),
        ("speedrun", "finished"),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_samples"] == 50
    assert (tmp_path / "out" / "config.yaml").is_file()


def test_a_speedrun_without_time_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda self, step: True)
    assert accelerator.main(["--minutes", "1", "--output", str(tmp_path), "--device", "cpu"]) == 1
    assert [(step["name"], step["status"]) for step in record(tmp_path)] == [("speedrun", "no time left")]


def test_a_budget_of_days_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Step] = []
    monkeypatch.setattr(Session, "run", lambda self, step: bool(steps.append(step)))
    accelerator.main(["--minutes", str(25 * 60 + 1), "--output", str(tmp_path), "--device", "cpu"])
    assert steps[-1].name == "speedrun"
    assert "trainer.max_time='01:01:00:00'" in steps[-1].command
