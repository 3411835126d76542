"""Atomic writes and paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lipnet.files import atomic_write, atomic_writes, resolve_path
from tests.full_disk import room_for


class Interruption(BaseException):
    """Neither an error nor an exit: what a signal may raise."""


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    with atomic_write(path) as file:
        file.write(b"first ")
        assert not path.exists()
        file.write(b"second")
    assert path.read_bytes() == b"first second"
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"a long old content")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"a long old content"
    assert path.read_bytes() == b"new"


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as file:
        file.write(b"half of it")
        raise error("in the middle")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Interruption])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, old: bytes | None, error: type[BaseException]) -> None:
    path = tmp_path / "result.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error, match="in the middle"):
        write_half(path, error)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == ([("result.bin", old)] if old else [])


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one" / "result.bin"
    with atomic_write(path) as file:
        file.write(b"content")
    assert path.read_bytes() == b"content"


def test_a_folder_in_its_place_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"), atomic_write(tmp_path / "taken") as file:
        file.write(b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_two_files_at_the_same_time(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "one") as one, atomic_write(tmp_path / "two") as two:
        one.write(b"1")
        two.write(b"2")
    assert (tmp_path / "one").read_bytes() == b"1"
    assert (tmp_path / "two").read_bytes() == b"2"


def write_three(folder: Path, content: bytes, error: type[BaseException] | None = None) -> None:
    with atomic_writes(*(folder / name for name in "abc")) as files:
        for file in files:
            file.write(content)
        if error is not None:
            raise error("in the middle")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    write_three(tmp_path / "new", b"1")
    assert contents(tmp_path / "new") == dict.fromkeys("abc", b"1")
    write_three(tmp_path / "new", b"2")
    assert contents(tmp_path / "new") == dict.fromkeys("abc", b"2")


@pytest.mark.parametrize("error", [RuntimeError, Interruption])
def test_an_error_leaves_all_of_them_as_they_were(tmp_path: Path, error: type[BaseException]) -> None:
    write_three(tmp_path, b"1")
    with pytest.raises(error, match="in the middle"):
        write_three(tmp_path, b"2", error)
    assert contents(tmp_path) == dict.fromkeys("abc", b"1")


def test_a_full_disk_leaves_all_of_them_as_they_were(tmp_path: Path) -> None:
    write_three(tmp_path, b"1")
    with room_for(1000), pytest.raises(OSError, match="File too large"):
        write_three(tmp_path, bytes(2000))
    assert contents(tmp_path) == dict.fromkeys("abc", b"1")


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_the_last_one_is_there_only_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    """The process is killed after some of the files are renamed."""
    write_three(tmp_path, b"1")
    left, replace = iter(range(renamed)), os.replace

    def killed(source: str, target: Path) -> None:
        if next(left, None) is None:
            raise Interruption("killed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Interruption):
        write_three(tmp_path, b"2")
    assert contents(tmp_path) == {name: b"2" if "ab".index(name) < renamed else b"1" for name in "ab"}


def test_a_path_is_absolute_with_the_home_folder_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve_path("~/runs") == tmp_path / "runs"
    assert resolve_path(Path("runs")) == tmp_path / "runs"
    assert resolve_path("a~b") == tmp_path / "a~b"


def test_an_unknown_home_folder_is_an_error() -> None:
    with pytest.raises(ValueError, match="~nobody-at-all/x names an unknown home folder"):
        resolve_path("~nobody-at-all/x")
