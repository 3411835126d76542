"""Table and picture of a sweep, made from the files of its rows."""

from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.pages import (
    RADIUS,
    certified,
    markdown_table,
    not_run_yet,
    percent,
    read_rows,
    threads_of,
    write_page,
)


class Description(NamedTuple):
    """Texts of a sweep's page.

    Attributes:
        title: heading.
        method: paragraphs before the table.
        choice: sentence about the chosen row.
        module: module whose ``--render`` makes the page, with other options if it needs any.
        selected: the rows are a selection, so the page does not name the others.
    """

    title: str
    method: Sequence[str]
    choice: str
    module: str
    selected: bool = False


def write_report(
    folder: Path, names: Sequence[str], describe: Callable[[Sequence[dict[str, Any]]], Description]
) -> None:
    """Write README.md and accuracy.png for the rows in ``folder``/rows, in this order; nothing without rows."""
    found = read_rows(folder, names)
    if not found:
        return
    rows, missing = list(found.values()), [name for name in names if name not in found]
    write_page(folder, page(rows, missing, describe(rows)), draw(rows))


def page(rows: Sequence[dict[str, Any]], missing: Sequence[str], description: Description) -> str:
    """Return the README of a sweep: method, verdict, table, missing rows and commands."""
    first = rows[0]
    paragraphs = [
        f"# {description.title}",
        *description.method,
        "Accuracies are in %: clean, and certified at L2 radii (pixels in [0, 1]). ACR is the average certified radius "
        "of the correct samples.",
        verdict(rows),
        description.choice,
        "\n".join(table(rows)),
        "![clean and certified accuracy of each row](accuracy.png)",
    ]
    start = first["run"]["starts"][0]
    machine = start["hardware"]
    processors = dict.fromkeys(each["run"]["starts"][0]["hardware"]["processor"] for each in rows)
    paragraphs += [
        *([] if description.selected else not_run_yet(missing)),
        f"At commit {start['commit'][:7]}, this command trains the first row:",
        "```bash\npython train.py " + " ".join(quoted(each) for each in first["overrides"]) + "\n```",
        f"The minutes of training and validation are from {threads_of(machine)} on {machine['cores']} cores of "
        f"{' or '.join(processors)}, shared with other programs, and do not measure speed. Versions, commit, seed and "
        "time of each row are in `rows/`. This command makes table and picture from these files:",
        f"```bash\npython -m {description.module} --render\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Name the rows that differ from the first by more than two standard errors."""
    first = rows[0]
    names: dict[str, list[str]] = {"better": [], "worse": []}
    limit = 2 * sqrt(variance_of(first) * 2)
    for row in rows[1:]:
        difference = certified(row) - certified(first)
        if abs(difference) > limit:
            names["better" if difference > 0 else "worse"].append(f"`{row['name']}`")
    better, worse = (", ".join(each) or "none" for each in names.values())
    return (
        f"Each row has one seed. Two standard errors of the difference of two rows at {RADIUS} are {100 * limit:.2f} "
        "points. They account for the choice of images only, as if each row had its own images.\n\n"
        f"- Better than the first row by more than two standard errors: {better}.\n"
        f"- Worse than the first row by more than two standard errors: {worse}."
    )


def simplest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the simplest of the rows within two standard errors of the best one.

    It has the fewest changes and, of several such rows, the best certified accuracy.
    """
    best = max(rows, key=certified)
    near = [row for row in rows if certified(best) - certified(row) <= 2 * sqrt(variance_of(best) + variance_of(row))]
    return min(near, key=lambda row: (len(row["change"]), -certified(row)))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, with the difference of each row from the first at `RADIUS`."""
    radii = list(rows[0]["summary"]["certified_accuracy"])
    headings = ["row", "change", "parameters", "clean", *radii, f"difference at {RADIUS}", "ACR", "steps", "minutes"]
    lines = []
    for row in rows:
        summary, run = row["summary"], row["run"]
        shares = [summary["clean_accuracy"], *(summary["certified_accuracy"][radius] for radius in radii)]
        difference = 100 * (certified(row) - certified(rows[0]))
        average = summary["average_certified_radius"]
        line = [
            f"`{row['name']}`",
            " ".join(f"`{each}`" for each in row["change"]) or "-",
            f"{summary['parameters']:,}",
            *map(percent, shares),
            "-" if row is rows[0] else f"{difference:+.2f}",
            "-" if average is None else f"{average:.3f}",
            f"{run['steps']:,}",
            f"{run['seconds'] / 60:.0f}",
        ]
        lines.append(line)
    return markdown_table(headings, lines, texts=2)


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw clean and certified accuracy of each row, with the first row's as vertical lines."""
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    series = {
        "clean": [100 * row["summary"]["clean_accuracy"] for row in rows],
        f"certified at {RADIUS}": [100 * certified(row) for row in rows],
    }
    for (label, values), marker in zip(series.items(), ("o", "s"), strict=True):
        (line,) = axes.plot(values, range(len(rows)), marker, label=label)
        axes.axvline(values[0], color=line.get_color(), alpha=0.4, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"].replace("_", " ") for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on the validation images, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return figure


def variance_of(row: dict[str, Any]) -> float:
    """Return the variance of a row's certified accuracy at `RADIUS` due to the choice of images."""
    return certified(row) * (1 - certified(row)) / int(row["summary"]["n_samples"])


def quoted(override: str) -> str:
    """Quote an override for a shell, if necessary."""
    return f"'{override}'" if set(override) & set("[]{}()") else override
