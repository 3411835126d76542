"""The benchmark measures every network, and reports multiples of the plain one."""

import torch

from benchmarks.lipconvnet import KINDS, PLAIN, VARIANTS, measure, report


def test_measures_and_reports() -> None:
    names = [PLAIN, "lipnet GS-SOC (4,-)"]
    medians = measure(names, batch=1, rounds=1, device=torch.device("cpu"))
    assert list(medians) == names
    assert all(medians[name][kind] > 0 for name in names for kind in KINDS)
    table = report({1: medians})
    assert [column.header for column in table.columns] == ["network", *(f"{kind}, batch 1" for kind in KINDS)]
    assert table.row_count == len(names)


def test_networks_have_the_shapes_of_the_published_ones() -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        for name in (PLAIN, "published GS-SOC (4,-)", "lipnet GS-SOC (4,-), circular"):
            assert VARIANTS[name]().eval()(images).shape == (2, 100), name
