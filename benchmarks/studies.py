"""Command line and learning rates of the text, vision and transfer study."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.rows import R, command_parser


def study_parser(description: str | None, name: str, example: str, **settings: str) -> argparse.ArgumentParser:
    """Return the parser of a study's command.

    Args:
        description, name, **settings: see `command_parser`.
        example: pattern of rows, for the help.
    """
    parser = command_parser(description, name, **settings)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help=f"rows, such as '{example}'")
    parser.add_argument("--jobs", type=int, default=2, help="number of trainings at a time; default: 2")
    parser.add_argument("--plan", action="store_true", help="print the unfinished rows with estimates; train nothing")
    return parser


def matching(rows: Iterable[R], patterns: Sequence[str]) -> list[R]:
    """Return the rows whose names match one of the patterns."""
    return [row for row in rows if any(fnmatchcase(row.name, pattern) for pattern in patterns)]


def read_trials(files: Mapping[float, Path]) -> dict[float, dict[str, Any]] | None:
    """Read the files of a method's trials by learning rate; return None while one of them is missing."""
    if not all(file.is_file() for file in files.values()):
        return None
    return {rate: json.loads(file.read_text()) for rate, file in files.items()}


def best_rate(row: str, method: str, validated: Mapping[float, float] | None) -> float:
    """Return the learning rate with the highest validation accuracy for a row.

    Raises:
        ValueError: if ``validated`` is None, because a trial of the method is missing.
    """
    if validated is None:
        raise ValueError(f"{row} needs a learning rate: run the trials of {method} first")
    return max(validated, key=lambda rate: validated[rate])
