"""Safetensors checkpoints: what is saved comes back, and every damaged byte is noticed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lipnet.models import CheckpointError, load_checkpoint, save_checkpoint
from lipnet.models.tensor_file import read_tensor_file, tensor_file_bytes, write_tensor_file

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}
DESCRIPTION: dict[str, Any] = {"format": 1, "model": {"mean": [0.1, 1e-300], "text": 'a "quoted" \\ text'}}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    write_tensor_file(path, STATE, DESCRIPTION)
    state, description, _ = read_tensor_file(path)
    assert description == DESCRIPTION
    assert {name: (value.dtype, value.tolist()) for name, value in state.items()} == {
        name: (value.dtype, value.tolist()) for name, value in STATE.items()
    }


def test_other_programs_read_the_weights(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "some.safetensors", STATE, DESCRIPTION)
    assert torch.equal(load_file(tmp_path / "some.safetensors")["weight"], STATE["weight"])


def test_equal_checkpoints_are_equal_files() -> None:
    assert len({tensor_file_bytes(STATE, DESCRIPTION) for _ in range(20)}) == 1


def test_views_and_shared_weights_are_copied(tmp_path: Path) -> None:
    weight = torch.rand(4, 4)
    write_tensor_file(tmp_path / "s.safetensors", {"a": weight, "b": weight, "c": weight.T[1:]}, DESCRIPTION)
    state = read_tensor_file(tmp_path / "s.safetensors")[0]
    assert torch.equal(state["b"], weight)
    assert torch.equal(state["c"], weight.T[1:])


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    data = tensor_file_bytes(STATE, DESCRIPTION)
    path = tmp_path / "flipped.safetensors"
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.Random(place).randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            read_tensor_file(path)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tensor_file_bytes(STATE, DESCRIPTION)[:length])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: truncated"):
        read_tensor_file(path)


@pytest.mark.parametrize("metadata", [None, {"lipnet": "{"}, {"lipnet": "[]"}, {"lipnet": '{"sha256": 5}'}])
def test_a_file_of_another_program_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(STATE, tmp_path / "foreign.safetensors", metadata)
    with pytest.raises(CheckpointError, match="not written by lipnet"):
        read_tensor_file(tmp_path / "foreign.safetensors")


def test_a_description_that_json_would_change_is_refused() -> None:
    with pytest.raises(TypeError, match="JSON values"):
        tensor_file_bytes(STATE, {"model": {1: "one"}})


def test_a_checkpoint_may_be_a_safetensors_file(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny_model, tiny_config, digits_dataset)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.model_config, checkpoint.dataset) == (tiny_config, digits_dataset)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(checkpoint.model(x), tiny_model(x))


def test_a_strangers_target_is_not_built(tmp_path: Path, tiny_model: nn.Module, digits_dataset: dict[str, Any]) -> None:
    state: dict[str, Tensor] = tiny_model.state_dict()
    description = {"format": 1, "version": "0", "model": {"_target_": "os.system"}, "dataset": digits_dataset}
    write_tensor_file(tmp_path / "evil.safetensors", state, json.loads(json.dumps(description)))
    with pytest.raises(CheckpointError, match=r"a model may be built from lipnet.*got _target_ 'os.system'"):
        load_checkpoint(tmp_path / "evil.safetensors")
