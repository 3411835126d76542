"""The benchmark of flipped bits counts what each reader notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bit_flips import NOTICED, OTHER, SAME, checkpoint_of_lipnet, measure, outcomes, rows_of, torch_alone
from benchmarks.common import identical
from lipnet.models.archive import read_archive, write_archive


@pytest.mark.slow
def test_lipnet_notices_what_torch_reads(tmp_path: Path) -> None:
    results = measure(tmp_path, None, flips=40, seed=0)
    assert results["network.ckpt"]["torch.load"][OTHER] > 30
    for readers in results.values():
        assert readers["lipnet"] == {NOTICED: 40}
        assert all(sum(counts.values()) == 40 for counts in readers.values())
    assert len(rows_of(results, 40)) == 6


def test_each_outcome_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))

    def read(path: Path) -> bytes:
        data = path.read_bytes()
        if any(data[:50]):
            raise ValueError("damaged")
        return data[:75]

    counts = outcomes(path, {"half": read}, 200, seed=0)["half"]
    assert set(counts) == {NOTICED, OTHER, SAME}
    assert counts[NOTICED] > counts[OTHER] > 0
    assert path.read_bytes() == bytes(100)


def test_a_changed_description_of_the_model_is_other_content(tmp_path: Path, tiny_checkpoint: Path) -> None:
    content, _ = read_archive(tiny_checkpoint)
    content["lipnet"]["model"]["depth"] += 1
    write_archive(tmp_path / "other.ckpt", content)
    for read in (torch_alone, checkpoint_of_lipnet):
        assert not identical(read(tmp_path / "other.ckpt"), read(tiny_checkpoint))
