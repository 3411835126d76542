"""The measures count what they claim to count, and --check enforces the limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.measure import LONG_FILE, LONG_FUNCTION, Measure, Source, called_once, main, measure, shared_lines

FIRST = '''"""Module.

Two more lines.
"""

import os  # a comment


def public() -> str:
    """Return one."""
    # A comment.
    text = """a string
    is code"""
    return _once() + _twice() + _twice() + text


def _once() -> str:
    """Which is awkward."""
    return os.sep


def _twice() -> str:
    return "2"


def _imported() -> str:
    return "3"
'''
SHARED = [f"    value = value * {number} + 1" for number in range(8)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "first.py").write_text(FIRST)
    (tmp_path / "second.py").write_text("from first import _imported\n\nprint(_imported())\n")
    return tmp_path


def source(folder: Path, name: str, lines: list[str]) -> Source:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return Source(path)


def test_lines_of_code_leave_out_docstrings_comments_and_blank_lines(root: Path) -> None:
    assert Source(root / "first.py").code_lines == [6, 9, 12, 13, 14, 17, 19, 22, 23, 26, 27]
    assert measure(root)[0].count == 13


def test_a_private_function_is_called_once_if_no_file_refers_to_it_again(root: Path) -> None:
    found, total = called_once([Source(root / "first.py"), Source(root / "second.py")])
    assert [place.split()[-1] for place in found] == ["_once", "_imported"]
    assert total == 3


def test_each_maximal_run_of_shared_lines_is_one_pair(tmp_path: Path) -> None:
    one = source(tmp_path, "one.py", ["def one(value):", *SHARED, "    return value"])
    two = source(tmp_path, "two.py", ["def two(value):", '    """Docstring."""', *SHARED[:4], "", *SHARED[4:]])
    short = source(tmp_path, "short.py", ["def short(value):", *SHARED[:5], "    return None"])
    assert shared_lines([one, two, short]) == [f"{one.path}:2 {two.path}:3"]


def test_repeated_lines_do_not_share_with_themselves(tmp_path: Path) -> None:
    assert not shared_lines([source(tmp_path, "one.py", ["print()"] * 7)])


def test_awkward_openings_and_long_places_are_found(root: Path) -> None:
    source(root, "long.py", ["def long():", *["    print()"] * LONG_FUNCTION, *["#"] * LONG_FILE])
    _, _, _, openings, functions, files = measure(root)
    assert openings.found == [f"{root / 'first.py'}: Which is awkward. ..."]
    assert functions.found == [f"{root / 'long.py'}:1 long: {LONG_FUNCTION + 1}"]
    assert files.found == [f"{root / 'long.py'}: {LONG_FUNCTION + LONG_FILE + 1}"]


def test_a_limit_may_be_reached_and_not_exceeded() -> None:
    assert [Measure("", count, 2).exceeded for count in (1, 2, 3)] == [False, False, True]
    assert not Measure("", 100).exceeded


def test_check_fails_and_names_the_place(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main([str(root), "--check", "--list"])
    assert status.value.code == 1
    printed = capsys.readouterr().out
    assert "at most 0  EXCEEDED" in printed
    assert "first.py: Which is awkward." in printed
    (root / "first.py").write_text(FIRST.replace("Which is awkward", "Return the separator"))
    main([str(root), "--check"])


def test_a_signature_that_functions_have_in_common_is_not_shared_code(tmp_path: Path) -> None:
    signature = ["def {}(", *(f"    argument_{number}: int," for number in range(9)), ") -> int:", "    return 1"]
    first, second = ([line.format(name) for line in signature] for name in ("f", "g"))
    assert shared_lines([source(tmp_path, "a.py", first), source(tmp_path, "b.py", second)]) == []
    assert len(shared_lines([source(tmp_path, name, ["def f():", *SHARED]) for name in ("a.py", "b.py")])) == 1


def test_lines_are_listed_by_folder(root: Path) -> None:
    (root / "room").mkdir()
    (root / "room" / "third.py").write_text("x = 1\n")
    assert measure(root)[0].found == [".: 13", "room: 1"]
