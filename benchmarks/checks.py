"""Run the mutation suite and the property tests, and write their figures.

    python -m benchmarks.checks [mutation] [properties]

Runs both by default, and writes results/reliability/mutation.json and results/reliability/properties.json.
"""

import argparse
import sys

import pytest

from benchmarks.reliability import write_figures
from benchmarks.rows import ROOT


class Recorder:
    """pytest plugin that collects what passed tests recorded with ``record_property``."""

    def __init__(self) -> None:
        self.properties: dict[str, list[tuple[str, object]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.properties[report.nodeid.split("::")[-1].removesuffix("[all]")] = list(report.user_properties)


def run(suite: str) -> Recorder:
    """Run the tests in tests/SUITE; exit if one fails."""
    recorder = Recorder()
    # Each property runs with the ids [few] and [all]: take all. The brackets keep defects with "few" in their names.
    # One process keeps the rows in order.
    arguments = [str(ROOT / "tests" / suite), "-m", "slow or not slow", "-k", "not [few]", "-n0", "-q"]
    code = pytest.main([*arguments, f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}"], plugins=[recorder])
    if code != pytest.ExitCode.OK:
        sys.exit(f"tests failed ({code!r}), so there is nothing to report")
    return recorder


def mutation_rows(recorder: Recorder) -> list[tuple[str, str]]:
    """Return a row for each planted defect, with the tests that detected it."""
    rows = []
    for properties in recorder.properties.values():
        names = [str(value) for key, value in properties if key == "defect"]
        catchers = [str(value) for key, value in properties if key == "catcher"]
        if names:
            rows.append((names[0], "detected by " + ", ".join(f"`{test.removeprefix('tests/')}`" for test in catchers)))
    return [("planted defects; detected", f"{len(rows)}, {len(rows)}"), *rows]


def property_rows(recorder: Recorder) -> list[tuple[str, str]]:
    """Return a row for each property, with the number of random cases in which it held."""
    counts = {
        test: int(str(value))
        for test, properties in recorder.properties.items()
        for key, value in properties
        if key == "cases"
    }
    return [
        ("random cases; violations", f"{sum(counts.values()):,}, 0"),
        *((f"`{test}`", f"{count:,} cases") for test, count in counts.items()),
    ]


# Title and place of each suite on the page of `benchmarks.reliability`, and its rows.
SUITES = {
    "mutation": ("Planted defects", 21, mutation_rows),
    "properties": ("Bounds of random and adversarial filters", 22, property_rows),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help="mutation, properties; default: both")
    names = parser.parse_args().suites or list(SUITES)
    if not set(names) <= set(SUITES):
        parser.error(f"suites must be among {', '.join(SUITES)}, got {', '.join(names)}")
    for name in names:
        title, order, rows_of = SUITES[name]
        write_figures(name, title, order, rows_of(run(name)))


if __name__ == "__main__":
    main()
