"""Files that carry their own SHA-256: changed bits are refused, and a full disk leaves the last good file."""

from __future__ import annotations

import hashlib
import random
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from torch import nn

from lipnet.models import CheckpointError, load_checkpoint, save_checkpoint
from lipnet.models.archive import read_archive, write_archive
from tests.full_disk import room_for


@pytest.fixture
def content() -> dict[str, Any]:
    return {"weight": torch.randn(500, generator=torch.Generator().manual_seed(0)), "name": "made up"}


@pytest.fixture
def path(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "weights.ckpt"
    write_archive(path, content)
    return path


def test_what_is_written_comes_back_with_the_files_sha256(path: Path, content: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read, sha256 = read_archive(path)
    assert torch.equal(read["weight"], content["weight"])
    assert read["name"] == "made up"
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_a_file_of_torch(path: Path, content: dict[str, Any]) -> None:
    assert torch.equal(torch.load(path, weights_only=True)["weight"], content["weight"])
    assert torch.equal(torch.load(path, weights_only=True, mmap=True)["weight"], content["weight"])
    comment = ZipFile(path).comment
    data = path.read_bytes()
    assert comment.decode() == f"lipnet sha256 {hashlib.sha256(data[: -len(comment)]).hexdigest()}"


def test_it_may_be_moved_and_copied(path: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    moved = path.rename(tmp_path / "other.ckpt")
    assert torch.equal(read_archive(moved)[0]["weight"], content["weight"])


def test_no_flipped_bit_is_read(path: Path) -> None:
    data = path.read_bytes()
    end = 8 * (len(data) - 100)
    for bit in [*random.Random(0).sample(range(end), 300), *range(end, 8 * len(data))]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read_archive(path)


def test_nothing_is_read_behind_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="does not end where it says"):
        read_archive(path)


def test_a_file_of_torch_alone_is_read_with_a_warning_and_its_checksums(path: Path, content: dict[str, Any]) -> None:
    torch.save(content, path)
    with pytest.warns(UserWarning, match=r"weights\.ckpt carries no SHA-256: only its CRC-32 checksums"):
        read_archive(path)
    data = bytearray(path.read_bytes())
    data[data.index(content["weight"].numpy().tobytes()[:64])] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"checksum of .* is wrong"):
        read_archive(path)


def test_a_limit_of_the_system_leaves_the_last_good_checkpoint(
    tiny_checkpoint: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    """The system itself refuses to write more than half of the file."""
    before = tiny_checkpoint.read_bytes()
    with room_for(len(before) // 2), pytest.raises(OSError, match="File too large"):
        save_checkpoint(tiny_checkpoint, tiny_model, tiny_config, digits_dataset)
    assert tiny_checkpoint.read_bytes() == before
    assert list(tiny_checkpoint.parent.iterdir()) == [tiny_checkpoint]
    assert load_checkpoint(tiny_checkpoint).dataset == digits_dataset


def test_an_archive_that_inflates_is_refused_before_it_is_read(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.zeros(10**6)}, path)
    bomb = tmp_path / "bomb.ckpt"
    with ZipFile(path) as source, ZipFile(bomb, "w", ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    assert bomb.stat().st_size < 10**5
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: pytest.fail("read"))
    with pytest.raises(CheckpointError, match="records are compressed or overlap"):
        read_archive(bomb)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
def test_a_pickled_module_is_one_clear_line(path: Path, model: nn.Module) -> None:
    torch.save(model, path)
    with pytest.raises(CheckpointError, match=r"Python objects \(torch\.nn.*\).*save_checkpoint$") as caught:
        read_archive(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value).splitlines()) == 1
    assert "Weights only" not in str(caught.value)


def test_a_file_larger_than_memory_is_one_clear_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*arguments: object, **settings: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(CheckpointError, match="MemoryError"):
        read_archive(path)
