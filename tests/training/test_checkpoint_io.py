"""Lightning's checkpoints: written whole, and read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lipnet.models import CheckpointError
from lipnet.models.checkpoint import describe
from lipnet.training import WholeCheckpointIO


class Touching:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Unwritable:
    """An object whose pickling fails."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError("cannot be written")


@pytest.fixture
def content() -> dict[str, Any]:
    description = describe({"_target_": "torch.nn.Identity"}, {"name": "digits"})
    return {"state_dict": {"model.weight": torch.arange(3.0)}, "lipnet": description, "epoch": 4}


def test_what_is_saved_can_be_loaded(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "new" / "folder" / "some.ckpt"
    WholeCheckpointIO().save_checkpoint(content, path)
    loaded = WholeCheckpointIO().load_checkpoint(path)
    assert loaded["state_dict"]["model.weight"].equal(torch.arange(3.0))
    assert {**loaded, "state_dict": None} == {**content, "state_dict": None}
    assert [item.name for item in path.parent.iterdir()] == ["some.ckpt"]
    assert torch.load(path, weights_only=True).keys() == content.keys()


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_texts(tmp_path: Path, content: dict[str, Any], kind: type) -> None:
    path = kind(tmp_path / "some.ckpt")
    WholeCheckpointIO().save_checkpoint(content, path)
    assert WholeCheckpointIO().load_checkpoint(path, map_location="meta", weights_only=False)["epoch"] == 4


def test_an_error_in_writing_keeps_the_file_before(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "some.ckpt"
    WholeCheckpointIO().save_checkpoint(content, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="cannot be written"):
        WholeCheckpointIO().save_checkpoint({**content, "more": Unwritable()}, path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["some.ckpt"]


def test_code_in_a_file_is_not_executed(tmp_path: Path, content: dict[str, Any]) -> None:
    path, made = tmp_path / "some.ckpt", tmp_path / "made"
    torch.save({**content, "more": Touching(made)}, path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        WholeCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists(), "a file that does nothing would show nothing"


def test_lightnings_own_files_pass(tmp_path: Path) -> None:
    """Strategies that spawn processes hand the weights back in a file that describes no model."""
    path = tmp_path / ".temp.ckpt"
    WholeCheckpointIO().save_checkpoint({"layer.weight": torch.ones(2)}, path)
    assert WholeCheckpointIO().load_checkpoint(path)["layer.weight"].tolist() == [1.0, 1.0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing\.ckpt"):
        WholeCheckpointIO().load_checkpoint(tmp_path / "missing.ckpt")


def test_a_truncated_file_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "some.ckpt"
    WholeCheckpointIO().save_checkpoint(content, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"truncated or damaged"):
        WholeCheckpointIO().load_checkpoint(path)
