"""The files around the package agree with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import lipnet

ROOT = Path(__file__).parents[2]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_names_this_version() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == lipnet.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_hooks_run_the_linters_of_the_gate() -> None:
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"].split()[:2] for hook in repository["hooks"]]
    assert entries == [["ruff", "check"], ["ruff", "format"], ["mypy"]]


def test_the_workflow_runs_the_gate() -> None:
    (job,) = read_yaml(".github/workflows/tests.yml")["jobs"].values()
    assert job["steps"][-1]["run"] == ".ci/run --installed"
