"""The paths of inner indices through the blocks of L P R, which determine the ranks of its blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.structured.gs.permutations import check_permutation


class InnerPaths(NamedTuple):
    """The path of each inner index t: a row of R, which P sends to column sigma(t) of L.

    Attributes:
        left_block: i = floor(sigma(t) / b_L^2), the block of L that t enters, (s,).
        left_column: sigma(t) mod b_L^2, the column in that block, (s,).
        right_block: j = floor(t / b_R^1), the block of R that t leaves, (s,).
        right_row: t mod b_R^1, the row in that block, (s,).
        number: position of t, from 0, among the indices with the same i and j, (s,).
        ranks: rank of each block (i, j) of L P R, (k_L, k_R).
    """

    left_block: Tensor
    left_column: Tensor
    right_block: Tensor
    right_row: Tensor
    number: Tensor
    ranks: Tensor


def inner_paths(left: Sequence[int], right: Sequence[int], permutation: Tensor | None) -> InnerPaths:
    """Return the path of each inner index.

    Args:
        left: shape of the blocks of L, (k_L, b_L^1, b_L^2).
        right: shape of the blocks of R, (k_R, b_R^1, b_R^2).
        permutation: P between them, int64 of size k_L b_L^2; None is the identity.

    Raises:
        ValueError: unless both shapes are three positive numbers with k_L b_L^2 = k_R b_R^1, the size of P.
    """
    for name, shape in (("left", left), ("right", right)):
        if len(shape) != 3 or any(number < 1 for number in shape):
            raise ValueError(f"{name} must be (k, rows, columns), each at least 1, got {tuple(shape)}")
    (left_count, left_rows, left_columns), (right_count, right_rows, right_columns) = left, right
    size = left_count * left_columns
    if size != right_count * right_rows:
        raise ValueError(
            f"the columns of L must be as many as the rows of R, got {left_count} * {left_columns} = {size} "
            f"and {right_count} * {right_rows} = {right_count * right_rows}"
        )
    t = torch.arange(size, device=None if permutation is None else permutation.device)
    places = t if permutation is None else permutation
    check_permutation(places, size)
    left_block, right_block = places // left_columns, t // right_rows
    pair = left_block * right_count + right_block
    counts = torch.bincount(pair, minlength=left_count * right_count)
    # A stable sort by pair puts the t of a pair side by side; number them from where their pair starts.
    order = pair.argsort(stable=True)
    number = torch.empty_like(t)
    number[order] = t - (counts.cumsum(0) - counts)[pair[order]]
    ranks = counts.view(left_count, right_count).clamp(max=min(left_rows, right_columns))
    return InnerPaths(left_block, places % left_columns, right_block, t % right_rows, number, ranks)
