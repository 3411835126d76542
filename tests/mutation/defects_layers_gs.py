"""Defects of group-and-shuffle."""

from __future__ import annotations

from lipnet.layers import GroupAndShuffle
from tests.mutation.planting import Plant, attribute, edited

# Name, plant and catchers: `tests.mutation.defects` makes its Defect of them.
Row = tuple[str, Plant, list[str]]

TESTS = "tests/layers/test_group_and_shuffle.py::"

ROWS: list[Row] = [
    (
        "group-and-shuffle: the children that certificates walk lack the second convolution",
        attribute(GroupAndShuffle, "children_in_order", lambda self: list(self.named_children())[:3]),
        [TESTS + "test_the_bound_is_the_product_of_both_convolutions"],
    ),
    (
        "group-and-shuffle: the second convolution runs twice",
        attribute(
            GroupAndShuffle,
            "forward",
            edited(GroupAndShuffle.forward, "return maps if", "maps = self.pointwise(maps)\n    return maps if"),
        ),
        [TESTS + "test_the_function_is_the_composition_of_the_four"],
    ),
]
