"""Every planted defect is seen by the tests that are said to see it, and these pass without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mutation.defects import DEFECTS, Defect
from tests.mutation.planting import planted
from tests.mutation.running import Outcome, run

pytestmark = [pytest.mark.mutation, pytest.mark.slow]


@pytest.fixture(scope="module")
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The catchers of all selected defects, without any defect."""
    selected = [item.callspec.params.get("defect") for item in request.session.items if hasattr(item, "callspec")]
    catchers = {test: None for defect in selected if isinstance(defect, Defect) for test in defect.catchers}
    with planted(None):
        return run(list(catchers), tmp_path_factory.mktemp("healthy") / "nested")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_is_seen(defect: Defect, healthy: Outcome, tmp_path: Path, record_property: Any) -> None:
    assert healthy.errors == []
    assert healthy.failed == 0
    assert healthy.passed > 0
    record_property("defect", defect.name)
    for number, test in enumerate(defect.catchers):
        with planted(defect.plant):
            outcome = run([test], tmp_path / str(number), stop_at_failure=True)
        assert outcome.errors == [], f"{test} is not reached: the defect is planted in a way that breaks lipnet"
        assert outcome.failed, f"{test} does not see it: {defect.name}"
        record_property("catcher", test)


def test_no_defect_is_planted_twice() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 15
