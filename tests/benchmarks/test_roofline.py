"""Contractions are counted with their operands, and a floor is the longer of two times for each."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from benchmarks.roofline import Contraction, ContractionCounter, Peaks, peaks_of


def test_a_convolution_and_its_backward_pass() -> None:
    x = torch.rand(2, 3, 5, 5)
    weight = torch.rand(4, 3, 3, 3, requires_grad=True)
    with ContractionCounter() as counter:
        result = F.conv2d(x, weight, padding=1)
        (result + 1).square().sum().backward()
    operations = 2 * result.numel() * 3 * 9
    sizes = 4 * (x.numel() + weight.numel() + result.numel())
    assert counter.contractions[0] == Contraction(operations, sizes)
    # The gradient of the filter: as many products, from the maps, the gradient and the filter, whose shape is read.
    assert counter.contractions[1] == Contraction(operations, sizes + 4 * weight.numel())
    assert (counter.operations, counter.bytes) == (2 * operations, 2 * sizes + 4 * weight.numel())


@pytest.mark.parametrize(("peaks", "floor"), [(Peaks(10.0, 1e9), 4.8), (Peaks(1e9, 10.0), 10.4)])
def test_the_floor_is_by_arithmetic_or_by_memory(peaks: Peaks, floor: float) -> None:
    with ContractionCounter() as counter:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert counter.floor(peaks) == pytest.approx(floor)


def test_peaks_are_operations_and_bytes_over_the_fastest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.roofline._MATRIX", {"cpu": 64})
    monkeypatch.setattr("benchmarks.roofline._COPIED", {"cpu": 2**12})
    times = iter([3.0] * 19 + [2.0] + [5.0] * 19 + [4.0])

    def timed(function: Callable[[], object], device: torch.device) -> float:
        function()
        return next(times)

    monkeypatch.setattr("benchmarks.roofline.seconds", timed)
    assert peaks_of(torch.device("cpu"), torch.bfloat16) == (2 * 64**3 / 2, 2 * 2**12 / 4)
