"""The benchmark of memory counts live blocks, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.lipconvnet import PLAIN
from benchmarks.memory import MEASURED, NETWORKS, measure, peak_of_step, peak_of_trace, report, report_of_holders, write

ROOT = Path(__file__).parents[2]
MIB = 2**20


def _range(name: str, start: float, end: float) -> dict[str, Any]:
    return {"cat": "cpu_op", "name": name, "ts": start, "dur": end - start}


def _block(time: float, address: int, size: int) -> dict[str, Any]:
    return {"cat": "cpu_instant_event", "name": "[memory]", "ts": time, "args": {"Addr": address, "Bytes": size}}


def test_peak_is_the_largest_sum_within_the_measured_step() -> None:
    events = [
        _range("first step", 0, 10),
        _block(1, 1, 1000),  # more than ever in the measured step
        _block(2, 1, -1000),
        _range("aten::empty", 3, 5),
        _block(4, 2, 100),
        _range(MEASURED, 20, 40),
        _range("aten::conv2d", 21, 39),
        _block(22, 3, 50),
        _range("aten::mul", 24, 28),
        _block(25, 4, 30),
        _block(30, 3, -50),
        _block(35, 5, 40),
        _block(45, 6, 1000),
    ]
    peak, holders = peak_of_trace(events)
    assert peak == 180
    assert holders == {
        "first step / aten::empty": 100,
        "aten::conv2d": 50,
        "aten::conv2d / aten::mul": 30,
    }


def test_order_of_the_events_in_the_file_does_not_matter() -> None:
    events = [_block(3, 1, -10), _block(2, 1, 10), _range(MEASURED, 1, 4)]
    assert peak_of_trace(events)[0] == 10


class _Known(nn.Module):
    """Network with a weight of 1 MiB that holds feature maps of 1 MiB (batch 4) until its next call."""

    def __init__(self, enter: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(MIB // 4))
        self.enter = enter

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.held = self.enter(torch.ones(len(images), 64, 32, 32))
        return self.weight[:100].expand(len(images), 100) + images.mean()


@pytest.mark.parametrize("opaque", [False, True], ids=["plain", "opaque"])
def test_counts_weights_gradients_momentum_and_maps(opaque: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def enter(maps: Tensor) -> Tensor:
        return maps.to_mkldnn() if opaque else maps.clone()

    monkeypatch.setitem(NETWORKS, "known", lambda: _Known(enter))
    peak = peak_of_step("known", 4, "cpu")
    # Forward: weight, momentum, feature maps of the last step, the new ones, and the tensor that they are made from.
    # The gradient was released before.
    assert 5 * MIB <= peak["live"] <= 5.25 * MIB
    assert sum(peak["holders"].values()) == pytest.approx(peak["live"], rel=0.05)


def test_a_part_takes_its_place_in_the_file(tmp_path: Path) -> None:
    output = tmp_path / "memory.json"
    write({32: {"a": {"live": 1}, "b": {"live": 2}}, 128: {"a": {"live": 3}}}, {"device": "x"}, output)
    write({32: {"b": {"live": 4}}}, {"device": "x"}, output)
    assert json.loads(output.read_text())["peak_bytes"] == {
        "32": {"a": {"live": 1}, "b": {"live": 4}},
        "128": {"a": {"live": 3}},
    }


def test_the_guide_quotes_the_file() -> None:
    peaks = json.loads((ROOT / "benchmarks" / "memory_cpu.json").read_text())["peak_bytes"]
    guide = (ROOT / "docs" / "engines.md").read_text()
    for name in NETWORKS:
        ratios = [peaks[batch][name]["live"] / peaks[batch][PLAIN]["live"] for batch in ("32", "128")]
        assert f"| {name} | {ratios[0]:.2f} | {ratios[1]:.2f} |" in guide


@pytest.mark.slow
def test_measures_networks_in_processes_of_their_own_and_reports() -> None:
    names = [PLAIN, "lipnet GS-SOC (4,-), recompute"]
    results = measure(names, [2], "cpu")
    live = {name: peak["live"] for name, peak in results[2].items()}
    for name in names:
        parameters = sum(weight.numel() * weight.element_size() for weight in NETWORKS[name]().parameters())
        # Parameters, gradients and momentum; the maps of two images are small.
        assert 3 * parameters < live[name] < 4.5 * parameters
    assert report(results).row_count == len(names)
    assert report_of_holders(results, most=2).row_count == 2 * len(names)
