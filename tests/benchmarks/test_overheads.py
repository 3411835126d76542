"""The benchmark of overheads measures every figure and writes them in one file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import overheads
from lipnet.layers import SOC


@pytest.mark.slow
def test_all_figures_are_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = partial(overheads.LipConvNet, depth=5, initial_channels=4, conv=SOC)
    monkeypatch.setattr(overheads, "NETWORKS", {"small": small})
    monkeypatch.setattr(overheads, "start_up", lambda: {"import torch": 1.0})
    output = tmp_path / "overheads.json"
    earlier = {"seconds": {"large": {"training step": 9.0}}, "start_up": {"quickstart": 70.0}}
    output.write_text(json.dumps(earlier))
    overheads.main(["--batch", "2", "--rounds", "1", "--output", str(output)])
    content = json.loads(output.read_text())
    figures = content["seconds"]["small"]
    assert all(value > 0 for value in figures.values())
    assert {"training step", "evaluation", "proof of K", "proof of E", "certified images per second"} <= set(figures)
    assert content["start_up"] == {"quickstart": 70.0, "import torch": 1.0}
    assert content["seconds"]["large"] == {"training step": 9.0}
    assert content["machine"]["batch"] == 2
    assert "multiples of a training step" in capsys.readouterr().out


def test_batches_must_not_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overheads.main(["--batch", "0"])
    assert "must be at least 1, got 5 and 0" in capsys.readouterr().err
