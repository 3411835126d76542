"""Launches and copies are counted on the meta device."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import launches
from benchmarks.launches import LaunchCounter, Launches, WaitCounter, launches_of, waits_of
from benchmarks.lipconvnet import PLAIN, VARIANTS
from lipnet.layers import GSSOC, MaxMinPermuted
from lipnet.models import LipConvNet


def test_counts_operations_and_copies_but_no_views() -> None:
    with LaunchCounter() as counter:
        x = torch.zeros(4, 4, device="meta")  # made, and filled
        (x.t()[0] + torch.empty(4, device="meta")).exp_()
        torch.zeros(4) + 1  # on the CPU
        x.copy_(torch.zeros(4, 4))
        x.copy_(x.t())
    assert counter.launches == Launches(operations=5, copies=1)


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("lipnet")])
def test_a_training_step_copies_nothing_from_the_cpu(name: str) -> None:
    counted = launches_of(VARIANTS[name])
    assert counted.copies == 0
    assert counted.operations > launches_of(VARIANTS[PLAIN]).operations


@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_neither_training_nor_prepared_evaluation_nor_validation_waits_for_the_device(padding_mode: str) -> None:
    def network() -> nn.Module:
        conv = partial(GSSOC, groups=(2, 2), padding_mode=padding_mode)
        return LipConvNet(4, depth=4, stages=2, initial_channels=8, conv=conv, activation=MaxMinPermuted)

    assert waits_of(network) == {"training": 0, "validation": 0, "evaluation": 0}


def test_waits_are_counted() -> None:
    with WaitCounter() as counter:
        torch.equal(torch.ones(2), torch.ones(2))
        torch.ones(1).item()
        torch.ones(1) + 1
    assert counter.waits == 2


def test_a_copy_from_the_cpu_is_counted() -> None:
    class Shifted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.flatten(1)) + torch.ones(100).to(x.device)

    assert launches_of(lambda: Shifted(3 * 32 * 32, 100)).copies == 1


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launches, "VARIANTS", {PLAIN: VARIANTS[PLAIN]})
    monkeypatch.setattr("sys.argv", ["launches", "--output", str(tmp_path / "launches.json")])
    launches.main()
    counted = json.loads((tmp_path / "launches.json").read_text())["networks"][PLAIN]
    assert str(counted["operations"]) in capsys.readouterr().out
