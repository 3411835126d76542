"""Run the mutation suite and the property tests, and write their figures.

    python -m benchmarks.checks [mutation] [properties]

Runs both by default, and writes results/reliability/mutation.json and results/reliability/properties.json.
"""

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks.reliability import ROOT, write_figures


class Recorder:
    """Plugin that collects the properties which passed tests recorded with ``record_property``."""

    def __init__(self) -> None:
        self.properties: dict[str, list[tuple[str, object]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.properties[report.nodeid.split("::")[-1].removesuffix("[all]")] = list(report.user_properties)


def run(*arguments: str) -> Recorder:
    """Run tests of the suite; exit if one fails."""
    recorder = Recorder()
    # Each property once, with all its examples; in one process, so that the rows keep their order.
    arguments = (*arguments, "-m", "slow or not slow", "-k", "not few", "-n0", "-q")
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


def main() -> None:
    suites = {"mutation": _mutation, "properties": _properties}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help="mutation, properties; default: both")
    names = parser.parse_args().suites or list(suites)
    if not set(names) <= set(suites):
        parser.error(f"suites must be among {', '.join(suites)}, got {', '.join(names)}")
    for name in names:
        suites[name]()


def _mutation() -> None:
    recorder = run(str(Path(ROOT, "tests", "mutation")))
    write_figures("mutation", "Planted defects", 21, mutation_rows(recorder))


def _properties() -> None:
    recorder = run(str(Path(ROOT, "tests", "properties")))
    write_figures("properties", "Bounds of random and adversarial filters", 22, property_rows(recorder))


if __name__ == "__main__":
    main()
