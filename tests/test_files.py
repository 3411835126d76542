"""Atomic writes and paths."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from lipnet.files import atomic_write, atomic_writes, complete_writes, resolve_path
from tests.full_disk import room_for
from tests.killed import killed_at


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


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    with room_for(1000), pytest.raises(OSError, match=f"File too large: '{path}'"), atomic_write(path) as file:
        file.write(bytes(2000))
    assert not list(tmp_path.iterdir())


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
    with room_for(1000), pytest.raises(OSError, match=r"File too large: '.*/c'"):
        write_three(tmp_path, bytes(2000))
    assert contents(tmp_path) == dict.fromkeys("abc", b"1")


@pytest.mark.parametrize("renamed", [0, 1, 2])
@pytest.mark.parametrize("completed", ["by a reader", "by the next call"])
def test_an_interrupted_replacement_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int, completed: str
) -> None:
    """The process is interrupted after some of the files are renamed."""
    write_three(tmp_path, b"1")
    left, replace = iter(range(renamed)), os.replace

    def killed(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise Interruption("killed")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Interruption):
            write_three(tmp_path, b"2")
    rest = tmp_path / "c.replacement"
    assert {path.name for path in rest.iterdir()} == set("abc"[renamed:])
    rest_moved = {name: b"2" if "abc".index(name) < renamed else b"1" for name in "abc"}
    assert {name: (tmp_path / name).read_bytes() for name in "abc"} == rest_moved
    if completed == "by a reader":
        complete_writes(*(tmp_path / name for name in "abc"))
        assert contents(tmp_path) == dict.fromkeys("abc", b"2")
    else:
        with pytest.raises(RuntimeError):
            write_three(tmp_path, b"3", RuntimeError)
        write_three(tmp_path, b"3")
        assert contents(tmp_path) == dict.fromkeys("abc", b"3")


@pytest.mark.slow
@pytest.mark.parametrize("old", [b"1", None])
def test_a_kill_at_any_step_leaves_the_old_set_or_the_new_one(tmp_path: Path, old: bytes | None) -> None:
    found = []
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        if old is not None:
            write_three(folder, old)
        killed = killed_at(step, partial(write_three, folder, b"2"))
        complete_writes(*(folder / name for name in "abc"))
        present = {name: (folder / name).read_bytes() for name in "abc" if (folder / name).exists()}
        found.append(present)
        assert all(path.name.endswith(".partial") for path in folder.iterdir() if path.name not in present)
        write_three(folder, b"3")
        assert {name: (folder / name).read_bytes() for name in "abc"} == dict.fromkeys("abc", b"3")
        if not killed:
            break
    before = {} if old is None else dict.fromkeys("abc", old)
    moment = found.index(dict.fromkeys("abc", b"2"))
    assert found == [before] * moment + [dict.fromkeys("abc", b"2")] * (len(found) - moment)
    assert moment >= 5
    assert len(found) - moment >= 5


@pytest.mark.slow
def test_threads_that_write_the_same_files_do_not_mix_them(tmp_path: Path) -> None:
    sets = [bytes([number]) * 100_000 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(write_three, tmp_path), sets))
        list(pool.map(partial(write_one, tmp_path / "one"), sets))
    found = contents(tmp_path)
    assert found.keys() == {*"abc", "one"}
    assert found["one"] in sets
    assert found["a"] in sets
    assert found["a"] == found["b"] == found["c"]


def write_one(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        for place in range(0, len(content), 10_000):
            file.write(content[place : place + 10_000])
            file.flush()


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_folder_in_place_of_one_of_them_is_an_error_and_changes_nothing(tmp_path: Path, name: str) -> None:
    write_three(tmp_path, b"1")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=f"/{name} must be a file or not exist, got a folder"):
        write_three(tmp_path, b"2")
    assert {path.name for path in tmp_path.iterdir()} == set("abc")
    assert all((tmp_path / other).read_bytes() == b"1" for other in "abc" if other != name)


def test_links_are_replaced_and_what_they_lead_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "new").mkdir()
    for name in "abc":
        (tmp_path / "new" / name).symlink_to(tmp_path / "other")
    write_three(tmp_path / "new", b"1")
    assert contents(tmp_path / "new") == dict.fromkeys("abc", b"1")
    assert not list((tmp_path / "other").iterdir())


def test_a_link_in_place_of_the_rest_moves_nothing(tmp_path: Path) -> None:
    """Someone else's folder must not take files from elsewhere."""
    write_three(tmp_path / "mine", b"1")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "c.replacement").symlink_to(tmp_path / "mine")
    complete_writes(*(tmp_path / "theirs" / name for name in "abc"))
    assert contents(tmp_path / "mine") == dict.fromkeys("abc", b"1")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_other_files_where_the_new_set_goes_are_an_error_and_change_nothing(tmp_path: Path, kind: str) -> None:
    write_three(tmp_path, b"1")
    if kind == "folder":
        (tmp_path / "c.replacement").mkdir()
        (tmp_path / "c.replacement" / "notes").touch()
    else:
        (tmp_path / "c.replacement").touch()
    with pytest.raises(FileExistsError, match=r"c\.replacement must be an empty folder or not exist"):
        write_three(tmp_path, b"2")
    assert {name: (tmp_path / name).read_bytes() for name in "abc"} == dict.fromkeys("abc", b"1")
    assert {path.name for path in tmp_path.iterdir()} == {*"abc", "c.replacement"}


def test_a_left_over_folder_outdates_nothing(tmp_path: Path) -> None:
    """Only a folder with files of a new set does."""
    write_three(tmp_path, b"1")
    about, rest = tmp_path / "about", tmp_path / "c.replacement"
    about.touch()
    rest.mkdir()
    (rest / ".DS_Store").touch()
    complete = partial(complete_writes, *(tmp_path / name for name in "abc"), outdated=[about])
    complete()
    assert about.exists()
    (rest / "c").write_bytes(b"2")
    complete()
    assert not about.exists()
    assert (tmp_path / "c").read_bytes() == b"2"


def test_a_rest_that_cannot_be_moved_is_one_error(tmp_path: Path) -> None:
    write_three(tmp_path / "c.replacement", b"2")
    (tmp_path / "a").mkdir()
    expected = r"c\.replacement holds new files that must be moved to .*: make the move possible, got .*/a"
    with pytest.raises(OSError, match=expected):
        complete_writes(*(tmp_path / name for name in "abc"))


def test_a_path_is_absolute_with_the_home_folder_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve_path("~/runs") == tmp_path / "runs"
    assert resolve_path(Path("runs")) == tmp_path / "runs"
    assert resolve_path("a~b") == tmp_path / "a~b"


def test_an_unknown_home_folder_is_an_error() -> None:
    with pytest.raises(ValueError, match="~nobody-at-all/x names an unknown home folder"):
        resolve_path("~nobody-at-all/x")
