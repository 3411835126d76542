"""The benchmark of precision times the same step in both dtypes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import precision
from benchmarks.precision import main


def test_the_command_writes_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SHAPES", ((4, 4),))
    monkeypatch.setattr(precision, "WEIGHTS", ((8, 4, 3, 3),))
    main(["--layers", "soc", "aol", "--rounds", "1", "--output", str(tmp_path / "times.json")])
    content = json.loads((tmp_path / "times.json").read_text())
    assert sorted(content["layers"]) == ["aol", "soc"]
    for figures in (content["layers"]["aol"]["4"], content["muon"]["8x4x3x3"]):
        assert figures["speedup"] == pytest.approx(figures["float32_ms"] / figures["bfloat16_ms"])
