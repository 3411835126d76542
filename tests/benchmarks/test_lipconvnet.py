"""The benchmark measures every network, and reports multiples of the plain one."""

import torch

from benchmarks.lipconvnet import KINDS, PLAIN, VARIANTS, count, measure, report


def test_measures_and_reports() -> None:
    names = [PLAIN, "lipnet GS-SOC (4,-)"]
    medians = measure(names, batch=1, rounds=1, device=torch.device("cpu"))
    assert list(medians) == names
    assert all(medians[name][kind] > 0 for name in names for kind in KINDS)
    table = report({1: medians}, "time")
    assert [column.header for column in table.columns] == ["network", *(f"{kind}, batch 1" for kind in KINDS)]
    assert table.row_count == len(names)


def test_counts_operations() -> None:
    once, twice = (count([PLAIN, "lipnet GS-SOC (4,-)"], batch, torch.device("cpu")) for batch in (1, 2))
    for counts in (once, twice):
        assert list(counts) == [PLAIN, "lipnet GS-SOC (4,-)"]
    for kind in KINDS:
        # Of a plain network every operation is done for each image.
        assert twice[PLAIN][kind] == 2 * once[PLAIN][kind] > 0
        # A polynomial of the exponential takes several convolutions.
        assert once["lipnet GS-SOC (4,-)"][kind] > once[PLAIN][kind]


def test_networks_have_the_shapes_of_the_published_ones() -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        for name in (PLAIN, "published GS-SOC (4,-)", "lipnet GS-SOC (4,-), circular"):
            assert VARIANTS[name]().eval()(images).shape == (2, 100), name
