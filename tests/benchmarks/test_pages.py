"""The parts that all pages share: their tables, figures in per cent, and the files of finished rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from benchmarks.pages import (
    certified,
    markdown_table,
    mean_and_spread,
    not_run_yet,
    percent,
    read_rows,
    threads_of,
    write_page,
)
from benchmarks.rows import stored_summary


def test_a_table_aligns_texts_left_and_figures_right() -> None:
    lines = markdown_table(["row", "change", "clean"], [["a", "b", "1.00"]], texts=2)
    assert lines == ["| row | change | clean |", "| --- | --- | ---: |", "| a | b | 1.00 |"]


def test_shares_are_written_in_per_cent() -> None:
    assert percent(0.12345) == "12.35"
    assert mean_and_spread([0.5]) == "50.00"
    assert mean_and_spread([0.1, 0.2, 0.3]) == "20.00 ± 10.00"


@pytest.mark.parametrize(("threads", "text"), [(1, "1 thread"), (2, "2 threads")])
def test_threads_have_a_plural(threads: int, text: str) -> None:
    assert threads_of({"threads": threads}) == text


def test_finished_rows_are_read_in_the_given_order(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name, share in (("a", 0.1), ("b", 0.2)):
        content = {"summary": {"certified_accuracy": {"36/255": share}}}
        (tmp_path / "rows" / f"{name}.json").write_text(json.dumps(content))
    found = read_rows(tmp_path, ["b", "missing", "a"])
    assert [(name, certified(row)) for name, row in found.items()] == [("b", 0.2), ("a", 0.1)]
    assert not_run_yet(["missing"]) == ["Not run yet: `missing`."]
    assert not_run_yet([]) == []


def test_a_page_has_its_picture_beside_it(tmp_path: Path) -> None:
    write_page(tmp_path / "new", "± text", Figure(), picture="scores.png")
    assert (tmp_path / "new" / "README.md").read_text(encoding="utf-8") == "± text"
    assert (tmp_path / "new" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_stored_summary_has_no_path_of_the_machine(tmp_path: Path) -> None:
    summary = {"split": "test", "checkpoint": "/home/somebody", "sha256": "0", "layers": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert stored_summary(tmp_path) == {"split": "test", "layers": []}
    assert stored_summary(tmp_path, "layers") == {"split": "test"}
