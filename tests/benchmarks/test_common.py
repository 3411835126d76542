"""The comparison of the benchmarks is exact, and their files are valid JSON."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.common import identical, write_json


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
