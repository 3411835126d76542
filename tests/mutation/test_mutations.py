"""The tests that a defect names fail while it is planted, and pass without it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.planting import Defect, planted
from tests.mutation.running import run

ALL_DEFECTS: list[Defect] = [
    defect
    for path in sorted(Path(__file__).parent.glob("defects_*.py"))
    for defect in import_module(f"tests.mutation.{path.stem}").DEFECTS
]

pytestmark = [pytest.mark.mutation, pytest.mark.slow]


@pytest.mark.parametrize("defect", ALL_DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_is_detected(defect: Defect, tmp_path: Path, record_property: Any) -> None:
    # Both runs differ in the defect alone.
    with planted(lambda patch: None, trusting=defect.trusting):
        healthy = run(defect.catchers, tmp_path / "healthy")
    assert healthy.errors == []
    assert healthy.failed == 0
    assert healthy.passed >= len(defect.catchers)
    record_property("defect", defect.name)
    for number, test in enumerate(defect.catchers):
        with planted(defect.plant, trusting=defect.trusting):
            outcome = run([test], tmp_path / str(number), stop_at_failure=True)
        assert outcome.errors == [], f"{test} is not reached: planting the defect breaks lipnet in another way"
        assert outcome.failed, f"{test} does not detect it: {defect.name}"
        record_property("catcher", test)


def test_no_defect_is_planted_twice() -> None:
    assert len({defect.name for defect in ALL_DEFECTS}) == len(ALL_DEFECTS)
