"""The rows of the paper at a smaller size, and the comparison of their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from benchmarks.rows import ROOT
from benchmarks.sweep import overrides_of
from benchmarks.table3_short import BASE, PUBLISHED_BY_NAME, ROWS, describe, pairs_in_order
from tests.benchmarks.test_sweep import row_file


def test_there_are_seventeen_rows_with_the_published_figures() -> None:
    assert len(ROWS) == len(PUBLISHED_BY_NAME) == 17
    # Tables 3 and 4 of the paper.
    assert PUBLISHED_BY_NAME["gs_soc_4_maxmin"] == 24.19
    assert PUBLISHED_BY_NAME["gs_soc_4_1_not_paired"] == 26.40
    assert PUBLISHED_BY_NAME["gs_soc_4_4_not_paired_maxmin"] == 27.48


@pytest.mark.parametrize("name", ["soc", "gs_soc_4_1", "gs_soc_4_4_not_paired", "gs_soc_4_2_not_paired_maxmin"])
def test_a_row_is_the_published_recipe_at_a_smaller_size(name: str) -> None:
    (row,) = (each for each in ROWS if each.name == name)
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", overrides_of(row, ["trainer.max_epochs=40"], BASE))
    assert (config.model.depth, config.model.initial_channels, config.trainer.max_epochs) == (5, 16, 40)
    assert config.certify.split == "validation"
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.data.batch_size) == (0.1, 5e-4, 128)
    maxmin = name == "soc" or name.endswith("maxmin")
    assert config.model.activation._target_ == f"lipnet.layers.{'MaxMin' if maxmin else 'MaxMinPermuted'}"
    if name != "soc":
        assert config.conv.paired == ("not_paired" not in name)


def test_pairs_are_compared_in_the_published_order(tmp_path: Path) -> None:
    # The first two are in the published order, the third is not, and the fourth is near the third.
    measured = {"soc": 0.25, "gs_soc_4_maxmin": 0.15, "gs_soc_4_1": 0.2, "gs_soc_4_2": 0.201}
    for name, accuracy in measured.items():
        row_file(tmp_path, name, [], accuracy)
    rows = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in measured]
    assert pairs_in_order(rows) == (5, 4)
    assert "| `gs_soc_4_1` | 29.56 | 20.00 |" in describe(rows).choice
    assert (
        "5 pairs of rows differ at 36/255 by more than two standard errors. 4 of them are in" in describe(rows).choice
    )
