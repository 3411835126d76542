"""The page of reliability figures depends on the files alone, and has them in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import KEYS, render, running_command, write_figures


def test_what_is_written_is_on_the_page_in_order(tmp_path: Path) -> None:
    write_figures("late", "Kills", 30, [("runs", "50 of 50")], command="python -m late", folder=tmp_path)
    path = write_figures("early", "Bounds", 10, [("a | b", "2e-9")], command="python -m early", folder=tmp_path)
    content = json.loads(path.read_text())
    assert tuple(content) == KEYS
    assert content["rows"] == [["a | b", "2e-9"]]
    assert {"lipnet", "torch", "python"} == set(content["versions"])
    text = render(tmp_path, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == text
    assert text.index("## Bounds") < text.index("| a \\| b | 2e-9 |") < text.index("`python -m early`")
    assert text.index("`python -m early`") < text.index("## Kills") < text.index("| runs | 50 of 50 |")


def test_the_command_is_the_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["measure", "--kills", "50", "a b"])
    path = write_figures("one", "One", 1, [("a", "b")], folder=tmp_path)
    assert json.loads(path.read_text())["command"].endswith(" --kills 50 'a b'")


@pytest.mark.parametrize("rows", [[], [("one",)], [("a", 1)], [("a", "b", "c")]])
def test_rows_other_than_pairs_of_strings_are_refused(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(ValueError, match="one or more pairs of strings"):
        write_figures("one", "One", 1, rows, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_or_incomplete_figures_make_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no figures"):
        render(tmp_path, tmp_path / "page.md")
    (tmp_path / "half.json").write_text('{"title": "Half", "rows": []}')
    with pytest.raises(ValueError, match=r"half\.json lacks command, order, machine"):
        render(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_the_command_hides_paths_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["measure.py", "--data-dir", str(tmp_path), "--flips", "10"])
    assert running_command().endswith(" --data-dir PATH --flips 10")
