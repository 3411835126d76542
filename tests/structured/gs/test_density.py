"""Theorem 2 by brute force: the non-zero entries of products of boolean factors."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lipnet.functional import shuffle_permutation
from lipnet.structured import (
    HigherOrderGS,
    butterfly,
    factors_needed,
    group_and_shuffle,
    is_dense,
    parameter_counts,
)
from tests.oracles import permutation_matrix, shuffle_places
from tests.structured.oracles import random_places

Support = NDArray[np.bool_]

BLOCK_SIZES = (2, 3, 4, 5, 6, 8)
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17)


def supports(blocks: int, block_size: int, permutation: NDArray[np.float64]) -> list[Support]:
    """The supports of B_1, B_2 P B_1, ... for seven factors, by products of boolean matrices."""
    factor = np.kron(np.eye(blocks), np.ones((block_size, block_size))) > 0
    step = factor @ (permutation > 0)
    products = [factor]
    for _ in range(6):
        products.append(step @ products[-1])
    return products


def shuffle_matrix(size: int, groups: int) -> NDArray[np.float64]:
    return permutation_matrix(shuffle_places(size, groups, False))


@pytest.mark.parametrize(("block_size", "blocks"), [*product(BLOCK_SIZES, COUNTS)])
def test_density_of_shuffles_by_brute_force(block_size: int, blocks: int) -> None:
    brute = supports(blocks, block_size, shuffle_matrix(blocks * block_size, blocks))
    dense = [bool(support.all()) for support in brute]
    assert [is_dense(factors, block_size, blocks) for factors in range(1, 8)] == dense
    assert factors_needed(block_size, blocks) == 1 + dense.index(True)


@pytest.mark.parametrize(("block_size", "blocks"), [*product((2, 4, 6), (1, 2, 4, 8, 16))])
def test_density_of_butterflies_by_brute_force(block_size: int, blocks: int) -> None:
    half, units = block_size // 2, np.arange(2 * blocks)
    reached = np.eye(blocks * block_size, dtype=bool)
    dense = []
    for level in range(blocks.bit_length()):
        joined = (units[:, None] ^ units) & ~(1 << level) == 0
        reached = np.kron(joined, np.ones((half, half), dtype=bool)) @ reached
        dense.append(bool(reached.all()))
        factors = [torch.zeros(blocks, block_size, block_size)] * (level + 1)
        np.testing.assert_array_equal(butterfly(factors).support().numpy(), reached)
    assert [is_dense(m, block_size, blocks, butterfly=True) for m in range(1, 1 + len(dense))] == dense
    assert factors_needed(block_size, blocks, butterfly=True) == 1 + dense.index(True)


@pytest.mark.parametrize(("block_size", "blocks"), [*product((2, 4), COUNTS)])
def test_joining_half_blocks_in_pairs_attains_the_number_for_any_count(block_size: int, blocks: int) -> None:
    """For any r, pair half-blocks by the shuffle of 2r cards that deals them out to two hands."""
    half = np.eye(block_size // 2)
    brute = supports(blocks, block_size, np.kron(shuffle_matrix(2 * blocks, blocks), half))
    dense = [bool(support.all()) for support in brute]
    assert factors_needed(block_size, blocks, butterfly=True) == 1 + dense.index(True)


@pytest.mark.parametrize(("block_size", "blocks"), [(2, 3), (3, 4), (4, 4), (4, 16), (5, 2)])
def test_the_classes_have_these_supports(block_size: int, blocks: int) -> None:
    brute = supports(blocks, block_size, shuffle_matrix(blocks * block_size, blocks))
    for factors, support in enumerate(brute, start=1):
        A = group_and_shuffle([torch.zeros(blocks, block_size, block_size)] * factors)
        np.testing.assert_array_equal(A.support().numpy(), support)


@pytest.mark.parametrize(("block_size", "blocks"), [(2, 2), (2, 5), (3, 5), (4, 3)])
def test_outer_permutations_change_nothing(block_size: int, blocks: int) -> None:
    size, shuffle = blocks * block_size, shuffle_permutation(blocks * block_size, blocks)
    for factors in range(1, 5):
        zeros = [torch.zeros(blocks, block_size, block_size)] * factors
        outer = [random_places(size, seed) for seed in range(2)]
        A = HigherOrderGS(zeros, [outer[0], *[shuffle] * (factors - 1), outer[1]])
        assert bool(A.support().all()) == is_dense(factors, block_size, blocks)


def test_no_permutation_does_with_fewer_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    for block_size, blocks in ((2, 4), (2, 3), (3, 4), (4, 5)):
        short = factors_needed(block_size, blocks) - 1
        for _ in range(20):
            places = torch.randperm(blocks * block_size, generator=generator).tolist()
            assert not supports(blocks, block_size, permutation_matrix(places))[short - 1].all()


def test_integers_are_exact_where_logarithms_are_not() -> None:
    assert log(5**3, 5) > 3, "in floating point, so that its ceiling is 4"
    assert factors_needed(5, 5**3) == 4
    for exponent in range(1, 60):
        for base in (2, 3, 7, 10):
            assert factors_needed(base, base**exponent) == 1 + exponent
            assert factors_needed(base, base**exponent + 1) == 2 + exponent
            assert is_dense(1 + exponent, base, base**exponent)
            assert not is_dense(exponent, base, base**exponent)


def test_blocks_of_size_one_never_mix() -> None:
    assert factors_needed(1, 1) == 1
    assert is_dense(1, 1, 1)
    assert not is_dense(100, 1, 2)
    with pytest.raises(ValueError, match="2 blocks of size 1 never mix"):
        factors_needed(1, 2)


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 4"):
        factors_needed(0, 4)
    with pytest.raises(ValueError, match="must be at least 1, got 4 and -1"):
        is_dense(2, 4, -1)
    with pytest.raises(ValueError, match="factors must be at least 1, got 0"):
        is_dense(0, 4, 4)
    for odd in (1, 5):
        with pytest.raises(ValueError, match=f"block_size must be even, as a butterfly pairs half-blocks, got {odd}"):
            factors_needed(odd, 4, butterfly=True)
        with pytest.raises(ValueError, match=f"block_size must be even, as a butterfly pairs half-blocks, got {odd}"):
            is_dense(3, odd, 4, butterfly=True)
    with pytest.raises(ValueError, match="block_size must divide size, got size 10 and block_size 4"):
        parameter_counts(10, 4)


@pytest.mark.parametrize(("size", "block_size"), [(16, 4), (64, 4), (64, 8), (32, 2), (8, 8)])
def test_parameter_counts_are_those_of_dense_products(size: int, block_size: int) -> None:
    blocks = size // block_size
    counts = parameter_counts(size, block_size)
    for name, family, pairs in (("GS", group_and_shuffle, False), ("butterfly", butterfly, True)):
        factors = factors_needed(block_size, blocks, butterfly=pairs)
        A = family([torch.zeros(blocks, block_size, block_size)] * factors)
        assert A.support().all()
        assert counts[name] == A.num_parameters
    assert counts["dense"] == size**2
    assert counts["block-diagonal"] == group_and_shuffle([torch.zeros(blocks, block_size, block_size)]).num_parameters


def test_counts_grow_towards_the_dense_matrix() -> None:
    counts = parameter_counts(1024, 32)
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
