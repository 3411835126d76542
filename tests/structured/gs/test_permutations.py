"""Permutations as index tensors, against dense matrices and the definition of the butterfly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.structured import butterfly_permutation
from lipnet.structured.gs.permutations import check_permutation, inverse_permutation
from tests.oracles import permutation_matrix
from tests.structured.oracles import random_places


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_the_inverse_has_the_transposed_matrix(size: int) -> None:
    places = random_places(size)
    inverse = permutation_matrix(inverse_permutation(places).tolist())
    np.testing.assert_array_equal(inverse, permutation_matrix(places.tolist()).T)


def test_invalid_permutations_are_refused() -> None:
    check_permutation(torch.tensor([1, 0, 2]), 3)
    with pytest.raises(ValueError, match=r"permutation must be int64 of shape \(4,\), got torch.int64, \(3,\)"):
        check_permutation(torch.tensor([1, 0, 2]), 4)
    with pytest.raises(ValueError, match=r"inner must be int64 of shape \(3,\), got torch.int32, \(3,\)"):
        check_permutation(torch.tensor([1, 0, 2], dtype=torch.int32), 3, "inner")
    for places in ([0, 0, 2], [0, 1, 3], [-1, 0, 1]):
        with pytest.raises(ValueError, match=r"every number from 0 to 2 once, got \["):
            check_permutation(torch.tensor(places), 3)


@pytest.mark.parametrize("block_size", [2, 4, 6])
@pytest.mark.parametrize("blocks", [1, 2, 4, 8])
def test_each_block_receives_two_half_blocks_that_differ_in_one_digit(blocks: int, block_size: int) -> None:
    half = block_size // 2
    for level in range(blocks.bit_length()):
        places = butterfly_permutation(blocks, block_size, level).tolist()
        assert sorted(places) == list(range(blocks * block_size))
        source_of = {place: source for source, place in enumerate(places)}
        firsts = []
        for block in range(blocks):
            sources = [source_of[block * block_size + offset] for offset in range(block_size)]
            first, second = sources[0] // half, sources[half] // half
            assert second == first + 2**level
            assert second == first ^ 2**level
            assert sources == [u * half + offset for u in (first, second) for offset in range(half)]
            firsts.append(first)
        assert firsts == sorted(firsts), "the pairs keep their order"


def test_level_zero_is_the_identity() -> None:
    assert butterfly_permutation(4, 6, 0).tolist() == list(range(24))


@pytest.mark.parametrize("blocks", [0, -2, 3, 6, 12])
def test_butterflies_need_a_power_of_two_of_blocks(blocks: int) -> None:
    with pytest.raises(ValueError, match=f"blocks must be a power of two for a butterfly, got {blocks}"):
        butterfly_permutation(blocks, 4, 0)


@pytest.mark.parametrize("block_size", [0, 1, 3, -2])
def test_butterflies_need_half_blocks(block_size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size must be even, as a butterfly pairs .*, got {block_size}"):
        butterfly_permutation(4, block_size, 0)


@pytest.mark.parametrize("level", [-1, 3])
def test_butterflies_have_as_many_levels_as_their_half_blocks_have_digits(level: int) -> None:
    with pytest.raises(ValueError, match=f"level must be from 0 to 2 for 4 blocks, got {level}"):
        butterfly_permutation(4, 2, level)
