"""Result folders are read whole, and what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lipnet.results import Result, add_result, read_result, read_results
from tests.results.conftest import RECORD, Make


def test_every_folder_with_a_record_is_a_result(tmp_path: Path, make_run: Make) -> None:
    for name in ("b", "table3/a"):
        add_result(make_run(name), name, tmp_path / "results")
    (tmp_path / "results" / "sweep").mkdir()
    (tmp_path / "results" / "sweep" / "summary.json").write_text("{}")
    assert [result.name for result in read_results(tmp_path / "results")] == ["b", "table3/a"]


def test_no_folder_has_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "missing") == []


@pytest.mark.parametrize("missing", ["config.yaml", "summary.json", "curve.png"])
def test_a_folder_that_lost_a_file_is_no_result(tmp_path: Path, make_run: Make, missing: str) -> None:
    add_result(make_run(), "one", tmp_path)
    (tmp_path / "one" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"one is no result: {missing} missing"):
        read_results(tmp_path)


@pytest.mark.parametrize(("file", "key"), [("summary.json", "clean_accuracy"), ("run.json", "planned_epochs")])
def test_a_file_that_lacks_a_figure_is_said(tmp_path: Path, make_run: Make, file: str, key: str) -> None:
    add_result(make_run(), "one", tmp_path)
    content = json.loads((tmp_path / "one" / file).read_text())
    del content[key]
    (tmp_path / "one" / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{file} lacks {key}"):
        read_result(tmp_path / "one")


def test_a_file_that_is_no_json_is_said(tmp_path: Path, make_run: Make) -> None:
    add_result(make_run(), "one", tmp_path)
    (tmp_path / "one" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read: "):
        read_result(tmp_path / "one")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, "200 epochs"),
        ({"epochs": 60, "finished": False}, "cut short at 60 of 200 epochs"),
        ({"epochs": 60}, "cut short at 60 of 200 epochs"),
        ({"epochs": 37, "planned_epochs": None}, "37 epochs"),
        ({"epochs": 37, "planned_epochs": None, "finished": False}, "cut short after 37 epochs"),
    ],
)
def test_a_run_that_was_cut_says_so(record: dict[str, Any], expected: str) -> None:
    assert Result("one", {}, {**RECORD, **record}, {}).progress() == expected
