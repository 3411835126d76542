"""The published figures are consistent, and belong to experiments that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipnet.functional.margins import parse_radius
from tests.tools.results.conftest import CONFIG, RECORD, SUMMARY
from tools.results.folders import Result
from tools.results.published import PublishedRow, published_rows

EXPERIMENTS = Path(__file__).parents[3] / "lipnet" / "conf" / "experiment"
ROWS = published_rows()


def test_every_cell_of_the_papers_tables_is_there() -> None:
    cells = [row for row in ROWS if row.experiment is not None]
    assert len(cells) == 17
    assert len({(row.experiment, *sorted(row.settings.items())) for row in cells}) == 17
    assert all((EXPERIMENTS / f"{row.experiment}.yaml").is_file() for row in cells)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_accuracies_fall_with_the_radius(row: PublishedRow) -> None:
    certified = sorted(row.certified.items(), key=lambda each: parse_radius(each[0]))
    shares = [float(row.clean), *(float(share) for _, share in certified)]
    assert shares == sorted(shares, reverse=True)
    assert "36/255" in row.certified
    assert row.source


def test_a_training_belongs_to_one_cell() -> None:
    result = Result("one", CONFIG, RECORD, SUMMARY)
    assert [row.name for row in ROWS if row.matches(result)] == ["GS-SOC-15 (4,-), MaxMinPermuted, paired"]
    other = Result("one", {**CONFIG, "conv": {**CONFIG["conv"], "paired": False}}, RECORD, SUMMARY)
    assert [row.name for row in ROWS if row.matches(other)] == ["GS-SOC-15 (4,-), MaxMinPermuted, not paired"]
    elsewhere = Result("one", {**CONFIG, "task_name": "best/cifar100"}, RECORD, SUMMARY)
    assert not any(row.matches(elsewhere) for row in ROWS)
