"""Parts of the pages that sweeps and studies make from the files of their rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from lipnet.files import atomic_write

# The radius (L2, pixels in [0, 1]) at which rows are compared.
RADIUS = "36/255"


def read_rows(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the files of finished rows, ``folder``/rows/NAME.json, by name and in this order."""
    files = {name: folder / "rows" / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def write_page(folder: Path, text: str, figure: Figure, picture: str = "accuracy.png") -> None:
    """Write README.md and its picture into a folder, each of them whole or not at all."""
    with atomic_write(folder / picture) as file:
        figure.savefig(file, format="png", dpi=150)
    with atomic_write(folder / "README.md") as file:
        file.write(text.encode())


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Return the lines of a table, with the first ``texts`` columns aligned left and the others right."""
    rule = ["---"] * texts + ["---:"] * (len(headings) - texts)
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def not_run_yet(missing: Sequence[str]) -> list[str]:
    """Return a paragraph that names the missing rows, or none without missing rows."""
    return [f"Not run yet: {', '.join(f'`{name}`' for name in missing)}."] if missing else []


def certified(row: Mapping[str, Any]) -> float:
    """Return a row's certified accuracy at `RADIUS`."""
    return float(row["summary"]["certified_accuracy"][RADIUS])


def percent(share: float) -> str:
    """Write a share in per cent: 0.1234 as ``"12.34"``."""
    return f"{100 * share:.2f}"


def mean_and_spread(shares: Sequence[float]) -> str:
    """Write mean and standard deviation in per cent, ``"12.34 ± 0.56"``; a single share has no deviation."""
    return percent(mean(shares)) + (f" ± {percent(stdev(shares))}" if len(shares) > 1 else "")


def threads_of(machine: Mapping[str, Any]) -> str:
    """Write the threads of a training: ``"1 thread"`` or ``"2 threads"``."""
    return f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
