"""Printing is literal and never fails."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.table import Table

from lipnet.certify import summary_table
from lipnet.printing import say

SUMMARY = {"parameters": 1, "clean_accuracy": 1.0, "certified_accuracy": {"1": 0.5}, "average_certified_radius": None}


@pytest.mark.parametrize("name", ["out[seed]", "q[/b]", "[bold]x[/bold]", ":smile:", "a" * 300])
def test_text_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(name, f"files are in {name}")
    assert capsys.readouterr().out == f"{name}\nfiles are in {name}\n"


def test_names_in_tables_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say(summary_table({"out[seed]": SUMMARY, "q[/b]": SUMMARY}))
    printed = capsys.readouterr().out
    assert "out[seed]" in printed
    assert "q[/b]" in printed


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\rc")
    assert capsys.readouterr().out == "a\\x1b[2Jb\\rc\n"


def test_an_output_that_lacks_a_character_gets_an_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("r\u00e4dius \ud800", file=stream)
    assert raw.getvalue() == b"r\\xe4dius \\ud800\n"


def test_an_output_that_is_gone_is_no_error(tmp_path: Path) -> None:
    closed = (tmp_path / "file").open("w")
    closed.close()
    say("text", Table("column"), file=closed)
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w")
    say("text", file=pipe)
    with pytest.raises(BrokenPipeError):
        pipe.close()
