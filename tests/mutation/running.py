"""Run selected tests in a nested pytest session of this process, so that they see the planted defect."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# A test that detects a defect raises one of these. Any other error means that the planting itself broke lipnet.
VERDICTS = (AssertionError, pytest.fail.Exception)
# Plugins that a nested session does without. unraisableexception collects garbage four times, half of a session's time.
LEFT_OUT = ("cacheprovider", "faulthandler", "doctest", "unraisableexception")


@dataclass(eq=False)
class Outcome:
    """Number of tests that passed and failed, and errors outside of the tests' assertions."""

    passed: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report = yield
        if call.excinfo is None:
            self.passed += call.when == "call"
        elif call.when == "call" and isinstance(call.excinfo.value, VERDICTS):
            self.failed += 1
        elif not isinstance(call.excinfo.value, pytest.skip.Exception):
            self.errors.append(f"{item.nodeid}: {call.excinfo.exconly()}")
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(str(report.longrepr))


def run(tests: Sequence[str], folder: Path, *, stop_at_failure: bool = False) -> Outcome:
    """Run tests given by node ID, such as ``tests/layers/test_soc.py::test_groups_do_not_mix``.

    Test modules are imported afresh, so that they use lipnet's functions as they are now.
    """
    outcome = Outcome()
    # Without the configured options: no worker processes here, and slow tests are not left out.
    arguments = ["-o", "addopts=--import-mode=importlib", "-q", "-s", *(["-x"] if stop_at_failure else [])]
    arguments += [f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}", f"--basetemp={folder}"]
    arguments += [f"-pno:{plugin}" for plugin in LEFT_OUT]
    printed = io.StringIO()
    with _fresh_test_modules(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(printed):
        code = pytest.main([*arguments, *(str(ROOT / test) for test in tests)], plugins=[outcome])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        outcome.errors.append(f"pytest ended with {code!r}:\n{printed.getvalue()[-2000:]}")
    return outcome


@contextlib.contextmanager
def _fresh_test_modules() -> Iterator[None]:
    own = {name: module for name, module in sys.modules.items() if name == "tests" or name.startswith("tests.")}
    for name in own:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
            del sys.modules[name]
        sys.modules.update(own)
