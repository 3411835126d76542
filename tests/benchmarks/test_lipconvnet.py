"""The benchmark measures every network, and reports multiples of the plain one."""

from functools import partial

import pytest
import torch

from benchmarks.lipconvnet import KINDS, PLAIN, VARIANTS, Setting, count, measure, of_counts, report

CPU = torch.device("cpu")
SMALL = {name: partial(make, depth=5, initial_channels=4) for name, make in VARIANTS.items()}


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lipconvnet.VARIANTS", SMALL)


def test_measures_and_reports() -> None:
    names = [PLAIN, "lipnet GS-SOC (4,-)"]
    medians = measure({name: SMALL[name] for name in names}, batch=1, rounds=1, setting=Setting(CPU))
    table = report({1: medians}, "time")
    assert [column.header for column in table.columns] == ["network", *(f"{kind}, batch 1" for kind in KINDS)]
    assert list(table.columns[0].cells) == names
    multiples = [medians[name][KINDS[0]] / medians[PLAIN][KINDS[0]] for name in names]
    assert list(table.columns[1].cells) == [f"{multiple:.2f}" for multiple in multiples]


@pytest.mark.slow
def test_counts_operations() -> None:
    counts = {batch: count([PLAIN, "lipnet GS-SOC (4,-)"], batch, Setting(CPU)) for batch in (1, 2)}
    once, twice = of_counts(counts, lambda counter: counter.operations).values()
    for counts in (once, twice):
        assert list(counts) == [PLAIN, "lipnet GS-SOC (4,-)"]
    for kind in KINDS:
        # A plain network repeats every operation for each image.
        assert twice[PLAIN][kind] == 2 * once[PLAIN][kind] > 0
        # A polynomial of the exponential takes several convolutions.
        assert once["lipnet GS-SOC (4,-)"][kind] > once[PLAIN][kind]


@pytest.mark.slow
def test_other_settings_run() -> None:
    setting = Setting(CPU, autocast=True, channels_last=True)
    names = [PLAIN, "lipnet GS-SOC (4,-), circular"]
    medians = measure({name: SMALL[name] for name in names}, batch=2, rounds=1, setting=setting)
    floors = of_counts({2: count(names, 2, setting)}, lambda counter: counter.bytes)
    table = report(floors, "part", {2: medians})
    assert list(table.columns[1].cells) == [f"{floors[2][n][KINDS[0]] / medians[n][KINDS[0]]:.2f}" for n in names]


def test_networks_have_the_shapes_of_the_published_ones() -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        for name in (PLAIN, "published GS-SOC (4,-)", "lipnet GS-SOC (4,-), circular"):
            assert SMALL[name]().eval()(images).shape == (2, 100), name
