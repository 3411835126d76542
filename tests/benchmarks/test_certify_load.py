"""The benchmark of a certification reads time and memory from the command and the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.certify_load import MIB, Load, certify, rows_of


@pytest.mark.slow
def test_time_and_memory_are_those_of_the_command(tmp_path: Path, tiny_checkpoint: Path) -> None:
    load = certify(tiny_checkpoint, tmp_path / "out", 20, 1, ["batch_size=10"])
    assert load.images == 20
    assert 0 < load.certifying < load.seconds
    assert 100 * MIB < load.peak < 4096 * MIB
    with pytest.raises(RuntimeError, match="exit status 1"):
        certify(tiny_checkpoint, tmp_path / "out", 20, 1, ["batch_size=10"])


def test_rows() -> None:
    rows = rows_of([Load(1000, 30.0, 20.0, 500 * MIB, 2.0), Load(10000, 210.0, 200.0, 501 * MIB, 2.04)], 2)
    assert rows[0][1] == "20 s, 50.0 images/s; the whole command 30 s; load 2.0"
    assert rows[3] == ("Peak of resident memory, 10,000 images", "501 MiB")
