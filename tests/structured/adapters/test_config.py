"""Configurations: the updates they build, and their plain form."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lipnet.structured import LowRank, OrthogonalUpdate, WeightUpdate
from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
)
from lipnet.structured.adapters.config import config_from_plain, config_to_plain


def test_every_structure_builds_an_update_that_starts_as_the_identity(config: AdapterConfig) -> None:
    for shape in [(16, 8), (8, 72), (8, 8)]:
        update, weight = config.build(*shape), torch.randn(shape)
        assert update.shape == shape
        assert torch.equal(update(weight), weight)


def test_every_structure_comes_back_from_json(config: AdapterConfig) -> None:
    plain = config_to_plain(config)
    assert json.loads(json.dumps(plain)) == plain
    assert config_from_plain(plain) == config


def sides(config: AdapterConfig) -> list[str]:
    update = config.build(8, 16)
    assert isinstance(update, OrthogonalUpdate)
    assert (update.scale is not None) == config_to_plain(config)["scale"]
    return [side for side, matrix in (("output", update.output), ("input", update.input)) if matrix is not None]


def test_the_sides_that_orthogonal_matrices_act_on() -> None:
    for kind in (OFTConfig, BOFTConfig, GSOFTConfig):
        assert sides(kind(4)) == ["input"]
        assert sides(kind(4, side="output", scale=False)) == ["output"]
    assert sides(DoubleGSOFTConfig(4)) == ["output", "input"]


def test_the_settings_arrive() -> None:
    low_rank = LoRAConfig(rank=4, alpha=8).build(8, 16)
    assert isinstance(low_rank, LowRank)
    assert (low_rank.A.shape, low_rank.scaling) == ((4, 16), 2.0)
    update = BOFTConfig(4, factors=3, block_map="exponential").build(8, 16)
    assert "block_size=4, mixings=[1/1, 2/2, 2/4], block_map='exponential'" in repr(update)
    assert KroneckerConfig((2, 4)).build(8, 16).get_parameter("left").shape == (2, 4)
    assert "mixings=[1/1, 4/4, P^2]" in repr(GSOFTConfig(blocks=4, factors=3).build(8, 16))
    assert LowDisplacementRankConfig(rank=3).build(8, 16).get_parameter("circulant").shape == (3, 16)


@pytest.mark.parametrize("block_size", [0, -1, 2.0, True, "8", None])
def test_block_sizes_must_be_positive_whole_numbers(block_size: Any) -> None:
    for kind in (OFTConfig, BOFTConfig, GSOFTConfig, DoubleGSOFTConfig):
        with pytest.raises(ValueError, match=f"block_size must be a whole number of at least 1, got {block_size!r}"):
            kind(block_size)


def test_other_impossible_settings_are_refused() -> None:
    wrong: Any
    for wrong in (0, 1.5, False):
        for kind in (LoRAConfig, LowDisplacementRankConfig):
            with pytest.raises(ValueError, match=f"rank must be a whole number of at least 1, got {wrong}"):
                kind(rank=wrong)
        with pytest.raises(ValueError, match=f"factors must be a whole number of at least 1, got {wrong}"):
            BOFTConfig(4, factors=wrong)
    for wrong in (0, -1.0, float("nan"), float("inf"), True, "16"):
        with pytest.raises(ValueError, match=f"alpha must be a finite and positive number, got {wrong!r}"):
            LoRAConfig(alpha=wrong)
    with pytest.raises(ValueError, match="side must be one of 'input', 'output', got 'left'"):
        GSOFTConfig(4, side="left")
    with pytest.raises(ValueError, match="block_map must be one of 'cayley', 'exponential', got 'qr'"):
        DoubleGSOFTConfig(4, block_map="qr")
    wrong = 1
    with pytest.raises(ValueError, match="scale must be True or False, got 1"):
        OFTConfig(4, scale=wrong)
    with pytest.raises(ValueError, match="transpose must be True or False, got 1"):
        OFTConfig(4, transpose=wrong)
    with pytest.raises(ValueError, match="transpose=False needs side='input', got side='output'"):
        GSOFTConfig(4, side="output", transpose=False)
    with pytest.raises(ValueError, match="blocks must be a whole number of at least 1, got 0"):
        GSOFTConfig(blocks=0)
    with pytest.raises(ValueError, match="features must be divisible by 3, the number of blocks, got 16"):
        GSOFTConfig(blocks=3).build(8, 16)
    with pytest.raises(ValueError, match="factors must be a whole number of at least 1, got 0"):
        GSOFTConfig(4, factors=0)
    for structure in (BOFTConfig, GSOFTConfig):
        with pytest.raises(ValueError, match="factors must be from 1 to 64, got 65"):
            structure(4, factors=65)
    for wrong in (3, (2,), (2, 3, 4)):
        with pytest.raises(ValueError, match="left_shape must be two whole numbers or None, got"):
            KroneckerConfig(wrong)
    with pytest.raises(ValueError, match=r"left_shape\[1\] must be a whole number of at least 1, got 0"):
        KroneckerConfig((2, 0))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "structure must be one of LoRA, OFT, .*, got None"),
        ({"structure": "os.system"}, "got 'os.system'"),
        (
            {"structure": "LoRA", "rank": 2, "bias": True},
            "settings must be those of LoRA, got {'rank': 2, 'bias': True}",
        ),
        ({"structure": "LoRA", "rank": "2"}, "rank must be a whole number of at least 1, got '2'"),
    ],
)
def test_unknown_structures_and_settings_are_refused(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_plain(plain)


def test_a_structure_of_your_own_has_no_plain_form() -> None:
    class Own(AdapterConfig):
        def build(self, out_features: int, in_features: int) -> WeightUpdate:
            return LowRank(out_features, in_features)

    with pytest.raises(ValueError, match=r"a file can store LoRA, .*, got .*Own"):
        config_to_plain(Own())
