"""Checkpoints in the safetensors format: what is saved comes back, and damaged and foreign files are refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipnet.models import CheckpointError, load_checkpoint, save_checkpoint
from lipnet.models.checkpoint import read_checkpoint
from lipnet.tensor_file import tensor_file_bytes


@pytest.fixture
def saved(tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny_model, tiny_config, digits_dataset)
    return path


def test_a_checkpoint_may_be_a_safetensors_file(
    saved: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    checkpoint = load_checkpoint(saved)
    assert (checkpoint.model_config, checkpoint.dataset) == (tiny_config, digits_dataset)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(checkpoint.model(x), tiny_model(x))


def test_a_flipped_bit_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    name = data.index(b"sha256")
    # In the name of the SHA-256, too, which makes a file that states none.
    for place in [*range(name - 8, name + 80), *random.Random(0).sample(range(len(data)), 100)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.Random(place).randrange(8)
        saved.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read_checkpoint(saved)


@pytest.mark.parametrize("metadata", [None, {"lipnet_adapter": "{}"}, {"lipnet": "{}"}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: .*not written by lipnet\?"):
        read_checkpoint(path)


def test_a_strangers_target_is_not_built(tmp_path: Path, tiny_model: nn.Module, digits_dataset: dict[str, Any]) -> None:
    path = tmp_path / "evil.safetensors"
    description = {"format": 1, "version": "0", "model": {"_target_": "os.system"}, "dataset": digits_dataset}
    path.write_bytes(tensor_file_bytes(tiny_model.state_dict(), description, "lipnet"))
    with pytest.raises(CheckpointError, match=r"a model may be built from lipnet.*got _target_ 'os.system'"):
        load_checkpoint(path)
