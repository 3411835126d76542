"""The paths of inner indices, counted one by one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lipnet.structured.gs.paths import inner_paths
from tests.structured.oracles import random_places


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("left", "right"), [((2, 3, 6), (4, 3, 2)), ((3, 9, 4), (2, 6, 9)), ((1, 1, 5), (5, 1, 1))])
def test_each_index_one_by_one(left: tuple[int, int, int], right: tuple[int, int, int], seed: int) -> None:
    places = random_places(left[0] * left[2], seed)
    paths = inner_paths(left, right, places)
    seen: Counter[tuple[int, int]] = Counter()
    for t, place in enumerate(places.tolist()):
        (i, column), (j, row) = divmod(place, left[2]), divmod(t, right[1])
        assert (paths.left_block[t], paths.left_column[t]) == (i, column)
        assert (paths.right_block[t], paths.right_row[t]) == (j, row)
        assert paths.number[t] == seen[i, j]
        seen[i, j] += 1
    for i, j in ((i, j) for i in range(left[0]) for j in range(right[0])):
        assert paths.ranks[i, j] == min(seen[i, j], left[1], right[2])


def test_shapes_that_no_permutation_joins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 \* 4 = 8 and 3 \* 2 = 6"):
        inner_paths((2, 3, 4), (3, 2, 4), None)
    with pytest.raises(ValueError, match=r"right must be \(k, rows, columns\), each at least 1, got \(4, 2, 0\)"):
        inner_paths((2, 3, 4), (4, 2, 0), None)
    with pytest.raises(ValueError, match=r"left must be \(k, rows, columns\), each at least 1, got \(2, 3\)"):
        inner_paths((2, 3), (4, 2, 2), None)
    with pytest.raises(ValueError, match=r"permutation must be int64 of shape \(8,\)"):
        inner_paths((2, 3, 4), (4, 2, 2), torch.arange(6))
