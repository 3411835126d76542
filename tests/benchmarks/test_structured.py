"""The benchmark of structured adapters measures what it reports."""

import sys

import pytest
import torch
from torch import nn

from benchmarks.structured import comparisons, density, report
from benchmarks.structured_measures import (
    FROZEN,
    Contestant,
    Row,
    build,
    deviation,
    free_parameters,
    kept_bytes,
    measure,
    of_peft,
    ours,
)
from lipnet.structured.adapters import GSOFTConfig, OFTConfig, attach

CPU = torch.device("cpu")


def test_every_adapter_of_lipnet_is_measured() -> None:
    contestants = list(ours([4]))
    rows = measure(16, contestants, batch=3, rounds=1, device=CPU)
    assert [row.name for row in rows] == [FROZEN, *(each.name for each in contestants)]
    assert rows[0].multiple == 1
    assert all(row.seconds > 0 for row in rows)
    found = {row.name: row for row in rows}
    assert (found["GSOFT, no scale"].trained, found["GSOFT, no scale"].free) == (2 * 16 * 4, 2 * 4 * 6)
    assert (found["GSOFT"].trained, found["GSOFT"].free) == (2 * 16 * 4 + 16, 2 * 4 * 6 + 16)
    assert found["LoRA"].trained == found["LoRA"].free == 2 * 16 * 4
    assert found["LoRA"].deviation is None
    assert found[FROZEN].trained == found[FROZEN].kept == 0
    assert all(row.deviation < 1e-5 for row in rows if row.deviation is not None)
    (table,) = report(rows)
    assert table.row_count == len(rows)


def test_the_memory_is_that_of_the_tensors_kept_for_the_backward_pass() -> None:
    model, x = nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Tanh()), torch.zeros(8, 4, requires_grad=True)
    assert kept_bytes(model, x) == 2 * 8 * 4 * 4  # the outputs of both


def test_the_deviation_sees_what_is_not_orthogonal() -> None:
    class Stretch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.zeros(()))
            self.layer = nn.Linear(256, 256).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            stretched: torch.Tensor = self.layer(x) * (1 + self.factor)
            return stretched

    assert deviation(Contestant("stretch", None, lambda model: Stretch(), True), CPU) > 0.01
    rotation = Contestant("GSOFT", 8, lambda model: attach(model, GSOFTConfig(8)), True)
    assert deviation(rotation, CPU) < 1e-5


def test_free_parameters_of_blocks_are_their_upper_triangles() -> None:
    model = build(Contestant("OFT", 8, lambda model: attach(model, OFTConfig(8, scale=False))), 16, CPU)
    assert free_parameters(model) == 2 * 28


def test_gsoft_is_compared_at_equal_parameters() -> None:
    def row(name: str, block: int, seconds: float) -> Row:
        return Row(64, name, block, seconds, 1.0, 10, 0, 0, None)

    rows = [row("GSOFT", 4, 1.0), row("GSOFT", 16, 1.0), row("peft BOFT, 1 factor", 8, 4.0), row("peft OFT", 8, 2.0)]
    (found,) = comparisons(rows)
    assert (found["other"], found["share_of_time"], found["share_of_memory"]) == ("peft BOFT, 1 factor, b = 8", 0.25, 1)


def test_dense_with_two_factors_where_butterflies_need_more() -> None:
    (found,) = density([(1024, 32)])
    assert (found["factors_group_and_shuffle"], found["factors_butterfly"]) == (2, 6)


def test_without_peft_its_rows_are_left_out_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert of_peft([4]) == []
    assert "peft is left out" in capsys.readouterr().out
