"""Two factors: the class's order of arguments, and Proposition 1 against singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.functional import shuffle_permutation
from lipnet.structured import GSMatrix
from tests.oracles import permutation_matrix
from tests.structured.oracles import block_diagonal, random_blocks, random_places

# (k_L, b_L^1, b_L^2) and (k_R, b_R^1, b_R^2)
SHAPES = [
    ((1, 3, 4), (2, 2, 3)),
    ((2, 3, 4), (4, 2, 5)),
    ((4, 2, 2), (4, 2, 2)),
    ((3, 4, 4), (4, 3, 3)),
    ((2, 2, 12), (3, 8, 3)),
    ((6, 5, 1), (2, 3, 2)),
    ((2, 8, 8), (2, 8, 8)),
    ((5, 6, 6), (3, 10, 7)),
]


def example(left: tuple[int, int, int], right: tuple[int, int, int], seed: int = 0) -> GSMatrix:
    return GSMatrix(
        random_blocks(*left, seed=seed),
        random_blocks(*right, seed=seed + 1),
        random_places(left[0] * left[2], seed),
        random_places(left[0] * left[1], seed + 1),
        random_places(right[0] * right[2], seed + 2),
    )


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_it_is_the_product_in_the_order_of_its_name(left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    A = example(left, right)
    P_R, P, P_L = (permutation_matrix(places.tolist()) for places in A.permutations if places is not None)
    dense = P_L @ (block_diagonal(A.left) @ P @ block_diagonal(A.right)) @ P_R
    np.testing.assert_allclose(A.to_dense().numpy(), dense, atol=1e-12)
    transposed = A.T
    assert isinstance(transposed, GSMatrix)
    assert torch.equal(transposed.left, A.right.mT)
    np.testing.assert_allclose(transposed.to_dense().numpy(), dense.T, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_block_ranks_are_those_of_random_members(
    left: tuple[int, int, int], right: tuple[int, int, int], seed: int
) -> None:
    A = example(left, right, 10 * seed)
    assert A.permutations[1] is not None
    places = [None, A.permutations[1], None]
    inner = GSMatrix(A.left, A.right, places[1]).to_dense().numpy()
    blocks = inner.reshape(left[0], left[1], right[0], right[2]).swapaxes(1, 2)
    ranks = A.block_ranks()
    np.testing.assert_array_equal(ranks.numpy(), np.linalg.matrix_rank(blocks, tol=1e-9))
    assert ranks.dtype == torch.int64
    assert torch.equal(A.T.block_ranks(), ranks.T)


def test_block_ranks_where_blocks_differ_in_number_and_size() -> None:
    """The paper divides by the numbers of blocks in its floors, which here would name missing blocks."""
    # R: 2 blocks of 6 rows, L: 4 blocks of 3 columns; without a shuffle, R's block 0 feeds L's blocks 0 and 1.
    A = GSMatrix(torch.ones(4, 3, 3), torch.ones(2, 6, 6), None)
    assert A.block_ranks().tolist() == [[3, 0], [3, 0], [0, 3], [0, 3]]
    # P_(4, 12) deals the rows of each block of R out to L's four blocks: 6 rows, so 2, 2, 1 and 1 of them.
    A = GSMatrix(torch.ones(4, 3, 3), torch.ones(2, 6, 6), shuffle_permutation(12, 4))
    assert A.block_ranks().tolist() == [[2, 1], [2, 1], [1, 2], [1, 2]]


def test_ranks_are_cut_at_the_smaller_side_of_a_block() -> None:
    A = GSMatrix(torch.ones(1, 2, 6), torch.ones(1, 6, 3), None)
    assert A.block_ranks().tolist() == [[2]]


def test_moves_keep_the_class_and_its_name() -> None:
    A = example((2, 3, 4), (4, 2, 5)).to(torch.float32)
    assert isinstance(A, GSMatrix)
    assert repr(A) == "GSMatrix(6 x 20: 4 of 2 x 5, 2 of 3 x 4)"


def test_inner_sizes_must_be_equal() -> None:
    with pytest.raises(ValueError, match=r"blocks\[1\] takes 8 entries, but blocks\[0\] gives 6"):
        GSMatrix(torch.zeros(2, 3, 4), torch.zeros(3, 2, 4), None)
