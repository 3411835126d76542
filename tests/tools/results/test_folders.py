"""Result folders are read whole, and errors name the file that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lipnet.certify.files import sealed, summary_bytes
from tests.tools.results.conftest import RECORD, Make
from tools.results.folders import Result, add_result, read_result, read_results


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
    with pytest.raises(FileNotFoundError, match=f"one is no result, it lacks {missing}"):
        read_results(tmp_path)


def test_a_record_without_a_key_is_refused(tmp_path: Path, make_run: Make) -> None:
    add_result(make_run(), "one", tmp_path)
    record = {key: value for key, value in RECORD.items() if key != "planned_epochs"}
    (tmp_path / "one" / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"run\.json lacks planned_epochs"):
        read_result(tmp_path / "one")


def test_a_summary_that_is_not_of_a_certification_is_refused(tmp_path: Path, make_run: Make) -> None:
    add_result(make_run(), "one", tmp_path)
    (tmp_path / "one" / "summary.json").write_bytes(summary_bytes(sealed({"split": "test"})))
    with pytest.raises(ValueError, match=r"summary\.json lacks average_certified_radius, "):
        read_result(tmp_path / "one")


def test_an_edited_figure_is_found(tmp_path: Path, make_run: Make) -> None:
    add_result(make_run(), "one", tmp_path)
    file = tmp_path / "one" / "summary.json"
    file.write_text(file.read_text().replace("0.4401", "0.5401"))
    with pytest.raises(ValueError, match=r"summary\.json was changed after it was written"):
        read_result(tmp_path / "one")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path, make_run: Make) -> None:
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
