"""Step times are measured in turn and kept, and a new row is timed beside the first."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import step_times
from benchmarks.step_times import read_step_times, times_in_turn, training_step

TINY = ("data=digits", "model.stages=3", "model.depth=3", "model.initial_channels=8", "head=lln")


def test_missing_rows_get_their_multiple_of_the_first_rows_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "step_times.json"
    file.write_text(json.dumps({"device": "the first machine", "seconds": {"base": 0.2}}))
    timed: list[list[str]] = []

    def twice_as_slow(steps: dict[str, object]) -> dict[str, float]:
        timed.append(list(steps))
        return {"base": 0.4, "soc": 1.2}

    monkeypatch.setattr(step_times, "times_in_turn", twice_as_slow)
    monkeypatch.setattr(step_times, "training_step", lambda overrides: None)
    for _ in range(2):
        found = read_step_times(file, {"base": [], "soc": []}, torch.get_num_threads())
        assert found == {"base": 0.2, "soc": pytest.approx(0.6)}
    assert timed == [["base", "soc"]]
    assert json.loads(file.read_text())["device"] == "the first machine"


def test_one_thread_is_measured_in_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"sleeps": lambda: time.sleep(0.02)}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert times_in_turn(steps, rounds=3)["sleeps"] < 0.01
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert times_in_turn(steps, rounds=3)["sleeps"] >= 0.02


def test_a_step_is_one_of_the_training_with_these_overrides(tmp_path: Path) -> None:
    file = tmp_path / "step_times.json"
    assert read_step_times(file, {"base": TINY}, threads=1)["base"] > 0
    content = json.loads(file.read_text())
    assert (content["threads"], list(content["seconds"])) == (1, ["base"])


@pytest.mark.parametrize("override", ["trainer.precision=auto", "compile=default"])
def test_settings_that_the_timed_step_lacks_are_refused(override: str) -> None:
    with pytest.raises(ValueError, match=r"trainer.precision must be stated and compile null to time a step, got"):
        training_step([*TINY, override])
