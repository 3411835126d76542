"""The table of defects and of the tests that saw them, at the end of a session that planted some."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = []
    for outcome, verdict in (("passed", "seen by"), ("failed", "NOT SEEN")):
        for report in terminalreporter.getreports(outcome):
            properties = getattr(report, "user_properties", [])
            names = [value for key, value in properties if key == "defect"]
            catchers = [value.removeprefix("tests/") for key, value in properties if key == "catcher"]
            if names and report.when == "call":
                lines.append(f"{names[0]}\n    {verdict} {', '.join(catchers)}")
    if lines:
        terminalreporter.section(f"{len(lines)} planted defects")
        terminalreporter.write_line("\n".join(lines))
