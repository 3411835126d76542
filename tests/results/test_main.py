"""The commands, and the table in the README of this very repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipnet.results.__main__ import main
from lipnet.results.page import BEGIN, END
from tests.results.conftest import Make

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_table_of_the_files() -> None:
    main(["--results", str(ROOT / "results"), "--check", str(ROOT / "README.md")])


def test_from_a_run_to_a_page(tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results", tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"{BEGIN}\n{END}\n")
    main(["--results", str(results), "add", str(make_run()), "table3/one"])
    assert "table3/one: 200 epochs." in capsys.readouterr().out
    main(["--results", str(results), "--write", str(page)])
    assert "[table3/one](../results/table3/one), seed 0" in page.read_text()
    main(["--results", str(results), "--check", str(page)])
    main(["--results", str(results)])
    assert "**44.01**" in capsys.readouterr().out


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["--results", str(tmp_path), "add", str(tmp_path / "missing"), "one"])
    assert status.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "cannot become a result, it lacks run.json" in error
