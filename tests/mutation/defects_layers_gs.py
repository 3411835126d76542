"""Defects of group-and-shuffle."""

from __future__ import annotations

from lipnet.layers import GroupAndShuffle
from tests.mutation.planting import Defect, attribute, edit_method

TESTS = "tests/layers/test_group_and_shuffle.py::"

DEFECTS = [
    Defect(
        "group-and-shuffle: the children that certificates walk lack the second convolution",
        attribute(GroupAndShuffle, "children_in_order", lambda self: list(self.named_children())[:3]),
        [TESTS + "test_the_bound_is_the_product_of_both_convolutions"],
    ),
    Defect(
        "group-and-shuffle: the second convolution runs twice",
        edit_method(GroupAndShuffle, "forward", "return maps if", "maps = self.pointwise(maps)\n    return maps if"),
        [TESTS + "test_the_function_is_the_composition_of_the_four"],
    ),
]
