"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipnet.files import whole_file


class Interruption(BaseException):
    """Neither an error nor an exit: what a signal may raise."""


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    with whole_file(path) as file:
        file.write(b"first ")
        assert not path.exists()
        file.write(b"second")
    assert path.read_bytes() == b"first second"
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"a long old content")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"a long old content"
    assert path.read_bytes() == b"new"


def write_half(path: Path, error: type[BaseException]) -> None:
    with whole_file(path) as file:
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
    with whole_file(path) as file:
        file.write(b"content")
    assert path.read_bytes() == b"content"


def test_a_folder_in_its_place_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"), whole_file(tmp_path / "taken") as file:
        file.write(b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_two_files_at_the_same_time(tmp_path: Path) -> None:
    with whole_file(tmp_path / "one") as one, whole_file(tmp_path / "two") as two:
        one.write(b"1")
        two.write(b"2")
    assert (tmp_path / "one").read_bytes() == b"1"
    assert (tmp_path / "two").read_bytes() == b"2"
