"""Monarch, products of shuffles and butterflies against their definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lipnet.functional import shuffle_permutation
from lipnet.structured import HigherOrderGS, butterfly, group_and_shuffle, monarch
from tests.oracles import Matrix, permutation_matrix, shuffle_places, to_numpy
from tests.structured.oracles import block_diagonal, random_blocks


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_square_monarch_matrix_multiplies_the_reshaped_vector_twice(size: int) -> None:
    """y[a, i] = sum_j L[i, a, j] sum_c R[j, i, c] x[j, c], with x and y as size x size matrices."""
    left, right = random_blocks(size, size, size), random_blocks(size, size, size, seed=1)
    x = random_blocks(size, size, seed=2)
    expected = np.einsum("iaj,jic,jc->ai", to_numpy(left), to_numpy(right), to_numpy(x))
    np.testing.assert_allclose(monarch(left, right)(x.flatten()).view(size, size).numpy(), expected, atol=1e-12)


def test_a_rectangular_monarch_matrix_has_blocks_of_rank_one() -> None:
    left, right = random_blocks(3, 2, 4), random_blocks(4, 3, 5, seed=1)
    A = monarch(left, right)
    assert A.shape == (6, 20)
    assert A.block_ranks().tolist() == [[1] * 4] * 3
    inner, outer = permutation_matrix(shuffle_places(12, 3, False)), permutation_matrix(shuffle_places(6, 2, False))
    expected = outer @ block_diagonal(left) @ inner @ block_diagonal(right)
    np.testing.assert_allclose(A.to_dense().numpy(), expected, atol=1e-12)


def test_blocks_of_other_numbers_make_no_monarch_matrix() -> None:
    for left, right in (((3, 2, 4), (4, 2, 5)), ((3, 2, 4), (3, 3, 5)), ((3, 2), (2, 3, 5))):
        with pytest.raises(ValueError, match=r"needs L of shape \(k_L, b, k_R\) and R of shape \(k_R, k_L, c\), got"):
            monarch(torch.zeros(left), torch.zeros(right))


@pytest.mark.parametrize(("blocks", "block_size", "factors"), [(4, 4, 2), (3, 2, 3), (2, 5, 1), (8, 3, 4)])
def test_group_and_shuffle(blocks: int, block_size: int, factors: int) -> None:
    shuffle = permutation_matrix(shuffle_places(blocks * block_size, blocks, False))
    given = [random_blocks(blocks, block_size, block_size, seed=seed) for seed in range(factors)]
    dense = block_diagonal(given[0])
    for factor in given[1:]:
        dense = block_diagonal(factor) @ shuffle @ dense
    np.testing.assert_allclose(group_and_shuffle(given).to_dense().numpy(), dense, atol=1e-9)


def butterfly_factor(blocks: Matrix, level: int) -> Matrix:
    """A factor entry by entry: the pair of half-blocks number p, u and u + 2^level, is mixed by block p."""
    count, size = blocks.shape[0], blocks.shape[1]
    half = size // 2
    matrix = np.zeros((count * size, count * size))
    firsts = [u for u in range(2 * count) if not u >> level & 1]
    for block, first in zip(blocks, firsts, strict=True):
        places = [u * half + offset for u in (first, first + 2**level) for offset in range(half)]
        matrix[np.ix_(places, places)] = block
    return matrix


@pytest.mark.parametrize(("blocks", "block_size", "factors"), [(1, 2, 1), (2, 4, 2), (4, 2, 2), (4, 6, 3), (8, 2, 4)])
def test_butterflies_factor_by_factor(blocks: int, block_size: int, factors: int) -> None:
    given = [random_blocks(blocks, block_size, block_size, seed=seed) for seed in range(factors)]
    dense = np.eye(blocks * block_size)
    for level, factor in enumerate(given):
        dense = butterfly_factor(to_numpy(factor), level) @ dense
    np.testing.assert_allclose(butterfly(given).to_dense().numpy(), dense, atol=1e-9)


def test_the_fast_hadamard_transform_is_a_butterfly() -> None:
    rotation = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    transform = butterfly([rotation.expand(4, 2, 2)] * 3).to_dense()
    signs = [[(-1) ** (row & column).bit_count() for column in range(8)] for row in range(8)]
    assert transform.tolist() == signs


def test_a_butterfly_ends_where_its_levels_end() -> None:
    with pytest.raises(ValueError, match="level must be from 0 to 2 for 4 blocks, got 3"):
        butterfly([torch.zeros(4, 2, 2)] * 4)
    with pytest.raises(ValueError, match="blocks must be a power of two for a butterfly, got 3"):
        butterfly([torch.zeros(3, 2, 2)])


@pytest.mark.parametrize("family", [group_and_shuffle, butterfly])
def test_factors_of_different_or_rectangular_blocks_are_refused(family: Callable[..., HigherOrderGS]) -> None:
    with pytest.raises(ValueError, match=r"have one shape \(r, b, b\), got \[\(2, 4, 4\), \(4, 2, 2\)\]"):
        family([torch.zeros(4, 2, 2), torch.zeros(2, 4, 4)])
    with pytest.raises(ValueError, match=r"square blocks, of shape \(r, b, b\), got \(2, 4, 2\)"):
        family([torch.zeros(2, 4, 2)])
    with pytest.raises(ValueError, match=r"at least one .* got \[\]"):
        family([])


def test_gsoft_is_a_monarch_matrix_with_square_blocks() -> None:
    """Q = P^T L P R with P = P_(r, br), for any number of blocks of any size: Monarch needs them equal."""
    left, right = random_blocks(4, 4, 4), random_blocks(4, 4, 4, seed=1)
    P = permutation_matrix(shuffle_permutation(16, 4).tolist())
    expected = P.T @ block_diagonal(left) @ P @ block_diagonal(right)
    np.testing.assert_allclose(monarch(left, right).to_dense().numpy(), expected, atol=1e-12)
