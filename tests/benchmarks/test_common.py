"""The comparison of the benchmarks is exact, and their files are valid JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.common import earlier, identical, machine, medians_in_turn, write_json
from lipnet.training import run_record


def test_a_single_bit_is_a_difference() -> None:
    state = {"weight": torch.tensor([1.0, float("nan")]), "groups": [{"lr": 0.1, "params": [0, 1]}], "none": None}
    other = {**state, "weight": torch.tensor([1.0, float("nan")])}
    assert identical(state, other)
    assert not identical(state, {**state, "weight": torch.tensor([1.0 + 2**-23, float("nan")])})
    assert not identical(state, {**state, "groups": [{"lr": 0.1 + 2**-56, "params": [0, 1]}]})
    assert not identical(state, {**state, "groups": []})
    assert not identical(state, {**state, "more": 1})


def test_signs_of_zero_names_and_dtypes_are_differences() -> None:
    zero = torch.tensor([0.0])
    assert not identical({"a": zero}, {"a": -zero})
    assert not identical({"a": zero}, {"b": zero})
    assert not identical({"a": zero}, {"a": zero.double()})
    assert not identical(0, 0.0)


def test_a_file_is_replaced_by_json(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")
    write_json(path, {"§": [1, 0.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"§": [1, 0.5]}
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_a_file_of_another_machine_is_not_completed(tmp_path: Path) -> None:
    path, here = tmp_path / "figures.json", {"device": "cpu (P)", "threads": 2}
    assert earlier(None, here) == earlier(path, here) == {}
    write_json(path, {"machine": here, "seconds": {"soc": 1.0}})
    assert earlier(path, here)["seconds"] == {"soc": 1.0}
    with pytest.raises(ValueError, match=r"was measured on .*'threads': 2.*, not on .*'threads': 1"):
        earlier(path, {**here, "threads": 1})


@pytest.mark.parametrize(
    ("limits", "rounds"),
    [({"rounds": 3}, 3), ({"rounds": 3, "budget": 0}, 1), ({"budget": 0, "least": 2}, 2), ({"budget": 19}, 3)],
)
def test_all_take_turns_until_the_rounds_or_the_seconds_are_used_up(
    limits: dict[str, int], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warm-up round takes longest, and does not count."""
    now, order = 0.0, []

    def take(name: str, duration: float) -> None:
        nonlocal now
        now += duration * (1 if name in order else 10)
        order.append(name)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    turns = {"one": lambda: take("one", 0.5), "other": lambda: take("other", 1.0)}
    medians = medians_in_turn(turns, torch.device("cpu"), clock=lambda: now, **limits)
    assert medians == {"one": 0.5, "other": 1.0}
    assert order == ["one", "other"] * (rounds + 1)


def test_the_machine_is_named_after_its_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"processor": "P", "cores": 2, "threads": 1, "accelerator": "A"}
    monkeypatch.setattr(run_record, "hardware", lambda device: about)
    assert machine(torch.device("mps"))["device"] == "mps (A)"
    monkeypatch.setattr(run_record, "hardware", lambda device: about | {"accelerator": None})
    assert machine(torch.device("cpu"))["device"] == "cpu (P)"
