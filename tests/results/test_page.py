"""The table is put between two marks, and a page with another is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipnet.results import check_page, write_page
from lipnet.results.page import BEGIN, END


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe rest.\n")
    return path


def test_the_rest_of_the_page_stays(page: Path) -> None:
    write_page(page, "| new |")
    assert page.read_text() == f"# Title\n\n{BEGIN}\n| new |\n{END}\n\nThe rest.\n"
    check_page(page, "| new |")


def test_a_page_with_another_table_is_stale(page: Path) -> None:
    with pytest.raises(ValueError, match=r"README\.md is stale: write it anew with python -m lipnet\.results --write"):
        check_page(page, "| new |")


@pytest.mark.parametrize("content", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_marks_is_refused_and_stays(page: Path, content: str) -> None:
    page.write_text(content)
    with pytest.raises(ValueError, match="each once"):
        write_page(page, "| new |")
    assert page.read_text() == content
