"""Safetensors files that describe themselves: what is written comes back, and every damaged byte is noticed."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from lipnet.tensor_file import parse_tensor_file, tensor_file_bytes

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}
DESCRIPTION: dict[str, Any] = {"format": 1, "model": {"mean": [0.1, 1e-300], "text": 'a "quoted" \\ text'}}


def test_what_was_written_comes_back() -> None:
    tensors, description, has_sha256 = parse_tensor_file(tensor_file_bytes(TENSORS, DESCRIPTION, "kind"), "kind")
    assert has_sha256
    assert description == DESCRIPTION
    assert {name: (value.dtype, value.tolist()) for name, value in tensors.items()} == {
        name: (value.dtype, value.tolist()) for name, value in TENSORS.items()
    }


def test_other_programs_read_the_tensors() -> None:
    assert torch.equal(load(tensor_file_bytes(TENSORS, DESCRIPTION, "kind"))["weight"], TENSORS["weight"])


def test_equal_contents_are_equal_files() -> None:
    assert len({tensor_file_bytes(TENSORS, DESCRIPTION, "kind") for _ in range(20)}) == 1


def test_views_and_shared_tensors_are_copied() -> None:
    weight = torch.rand(4, 4)
    data = tensor_file_bytes({"a": weight, "b": weight, "c": weight.T[1:]}, DESCRIPTION, "kind")
    tensors = parse_tensor_file(data, "kind").tensors
    assert torch.equal(tensors["b"], weight)
    assert torch.equal(tensors["c"], weight.T[1:])


def test_a_flipped_bit_is_noticed() -> None:
    data = tensor_file_bytes(TENSORS, DESCRIPTION, "kind")
    # Without its name, the SHA-256 counts as missing.
    name = data.index(b"sha256")
    for place in (*range(name), *range(name + 6, len(data))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.Random(place).randrange(8)
        with pytest.raises(ValueError, match="damaged"):
            parse_tensor_file(bytes(flipped), "kind")


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="truncated, damaged, or not written by lipnet"):
        parse_tensor_file(tensor_file_bytes(TENSORS, DESCRIPTION, "kind")[:length], "kind")


@pytest.mark.parametrize(
    "metadata", [None, {"another": "{}"}, {"kind": "{"}, {"kind": "[]"}, {"kind": '{"sha256": 5}'}]
)
def test_a_file_of_another_program_is_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(ValueError, match="truncated, damaged, or not written by lipnet"):
        parse_tensor_file(save(TENSORS, metadata), "kind")


def test_a_description_without_a_sha256_says_so() -> None:
    assert not parse_tensor_file(save(TENSORS, {"kind": "{}"}), "kind").has_sha256


def test_a_description_that_json_would_change_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must hold JSON values, with strings as keys, got \{'model': \{1: 'one'\}\}"):
        tensor_file_bytes(TENSORS, {"model": {1: "one"}}, "kind")
