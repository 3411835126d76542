"""The figures of the suites come from the properties that tests recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import checks
from benchmarks.checks import Recorder, mutation_rows, property_rows


def recorder(**properties: list[tuple[str, object]]) -> Recorder:
    result = Recorder()
    result.properties = properties
    return result


def test_each_defect_has_a_row_with_its_catchers() -> None:
    rows = mutation_rows(
        recorder(
            first=[("defect", "std"), ("catcher", "tests/a.py::b"), ("catcher", "tests/c.py::d")],
            second=[("defect", "sqrt"), ("catcher", "tests/e.py::f")],
            other=[],
        )
    )
    assert rows == [
        ("planted defects; detected", "2, 2"),
        ("std", "detected by `a.py::b`, `c.py::d`"),
        ("sqrt", "detected by `e.py::f`"),
    ]


def test_cases_are_added_up() -> None:
    rows = property_rows(recorder(one=[("cases", 1500)], two=[("cases", 20)], other=[]))
    assert rows == [("random cases; violations", "1,520, 0"), ("`one`", "1,500 cases"), ("`two`", "20 cases")]


def test_only_passed_tests_are_recorded() -> None:
    result = Recorder()
    for when, outcome in (("setup", "passed"), ("call", "passed"), ("call", "failed")):
        report = pytest.TestReport(
            f"tests/a.py::{when}_{outcome}", ("", 0, ""), {}, outcome, None, when, user_properties=[("cases", 1)]
        )
        result.pytest_runtest_logreport(report)
    assert list(result.properties) == ["call_passed"]


def test_only_properties_with_few_examples_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    (tmp_path / "tests" / "suite").mkdir(parents=True)
    (tmp_path / "tests" / "suite" / "test_suite.py").write_text(
        "import pytest\n\n"
        '@pytest.mark.parametrize("case", ["few", "all", "polar factor: too few steps"])\n'
        "def test_one(case):\n    pass\n"
    )
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    assert list(checks.run("suite").properties) == ["test_one", "test_one[polar factor: too few steps]"]
