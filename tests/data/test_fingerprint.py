"""Tests of lipnet.data.fingerprint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lipnet.data.fingerprint import comparable, fingerprint
from lipnet.data.trees import scan_tree

LARGE = 200_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with a small and a large file each; they need not be images."""
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "small.png").write_bytes(bytes([label]) * 100)
        (tmp_path / "data" / name / "large.png").write_bytes(bytes([label]) * LARGE)
    return tmp_path / "data"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def exchange(root: Path) -> None:
    one, other = root / "ant" / "small.png", root / "bee" / "small.png"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda root: (root / "ant" / "new.png").write_bytes(b""),
    "removed": lambda root: (root / "ant" / "small.png").unlink(),
    "renamed": lambda root: (root / "ant" / "small.png").rename(root / "ant" / "other.png"),
    "longer": lambda root: (root / "bee" / "large.png").write_bytes(bytes([1]) * (LARGE + 1)),
    "small file": lambda root: flip(root / "ant" / "small.png", 57),
    "first part": lambda root: flip(root / "bee" / "large.png", 0),
    "middle part": lambda root: flip(root / "bee" / "large.png", LARGE // 2),
    "last part": lambda root: flip(root / "bee" / "large.png", LARGE - 1),
    "exchanged": exchange,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_names_sizes_and_contents_is_seen(change: str, root: Path) -> None:
    before = fingerprint(scan_tree(root))
    CHANGES[change](root)
    assert fingerprint(scan_tree(root)) != before


def test_a_copy_in_another_place_has_the_same_fingerprint(root: Path) -> None:
    copy = Path(shutil.copytree(root, root.parent / "copy"))
    (copy / "ant" / "small.png").touch()
    assert fingerprint(scan_tree(copy)) == fingerprint(scan_tree(root))


@pytest.mark.parametrize("size", [0, 1, 3 * 2**14, 3 * 2**14 + 1])
def test_files_of_every_size_are_read(size: int, root: Path) -> None:
    path = root / "ant" / "small.png"
    path.write_bytes(bytes(size))
    before = fingerprint(scan_tree(root))
    if size:
        flip(path, size // 2)
        assert fingerprint(scan_tree(root)) != before


def test_files_that_cannot_be_read_are_all_named(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / name / "gone.png").symlink_to(root / "nowhere")
    with pytest.raises(ValueError, match=r"2 of 6 files in .* cannot be used, .*ant/gone\.png .*; .*bee/gone\.png"):
        fingerprint(scan_tree(root))


@pytest.mark.parametrize(
    ("stated", "warning"),
    [
        ({"seed": 0}, "stated neither the names of its files nor their contents: if files were exchanged"),
        ({"seed": 0, "files_sha256": "b"}, "stated the names of its files, but not their contents: if files"),
    ],
)
def test_contents_that_an_earlier_version_did_not_state_are_not_compared(stated: dict[str, Any], warning: str) -> None:
    here = {"seed": 0, "files_sha256": "b", "contents_sha256": "c"}
    with pytest.warns(UserWarning, match=warning):
        assert comparable(here, stated) == {"seed": 0, "files_sha256": "b"}


def test_entries_that_both_have_are_compared(recwarn: Any) -> None:
    for here in ({"seed": 0}, {"seed": 0, "contents_sha256": "c"}):
        assert comparable(here, {"contents_sha256": "other"}) == here
    assert not recwarn.list
