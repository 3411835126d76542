"""The command line, the marks of a page, and the table in this repository's README."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.full_disk import room_for
from tests.tools.results.conftest import Make
from tools.marks import replace_between
from tools.results.__main__ import MARK, main

ROOT = Path(__file__).parents[3]
BEGIN, END = f"<!-- {MARK}:begin -->", f"<!-- {MARK}:end -->"


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


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(["--results", str(tmp_path), "add", str(tmp_path / "missing"), "one"])
    assert status.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "cannot become a result, it lacks run.json" in error


def test_the_rest_of_the_page_stays() -> None:
    content = f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n"
    expected = f"# Title\n\n{BEGIN}\n| new |\n{END}\n\nThe rest.\n"
    assert replace_between(content, "| new |", Path("README.md"), MARK) == expected


@pytest.mark.parametrize("content", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_marks_is_refused_and_stays(tmp_path: Path, content: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(content)
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "results"), "--write", str(page)])
    assert page.read_text() == content
    with pytest.raises(ValueError, match=r"README\.md must have .* each once"):
        replace_between(content, "| new |", page, MARK)


def test_a_page_that_cannot_be_written_stays(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\n{END}\n" + "own words\n" * 1000)
    before = page.read_text()
    with room_for(5000), pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "results"), "--write", str(page)])
    assert page.read_text() == before


def test_a_page_with_another_table_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\nold\n{END}\n")
    with pytest.raises(SystemExit) as status:
        main(["--results", str(tmp_path / "results"), "--check", str(page)])
    assert status.value.code == 1
    assert "README.md is stale: update it with python -m tools.results --write" in capsys.readouterr().err
    assert page.read_text() == f"{BEGIN}\nold\n{END}\n"
