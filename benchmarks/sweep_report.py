"""Table and picture of a sweep, made from the files of its rows."""

import json
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lipnet.files import atomic_write

RADIUS = "36/255"


class Description(NamedTuple):
    """Texts of a report.

    Attributes:
        title, method: heading and paragraphs before the table.
        choice: sentence on the row that is chosen.
        module: whose ``--render`` writes the report.
    """

    title: str
    method: Sequence[str]
    choice: str
    module: str


def write_report(
    folder: Path, names: Sequence[str], describe: Callable[[Sequence[dict[str, Any]]], Description]
) -> None:
    """Write README.md and accuracy.png for the rows in ``folder``/rows, in this order, if the first is there."""
    rows = [json.loads(path.read_text()) for name in names if (path := folder / "rows" / f"{name}.json").is_file()]
    if not rows or rows[0]["name"] != names[0]:
        return
    missing = [name for name in names if name not in {row["name"] for row in rows}]
    with atomic_write(folder / "accuracy.png") as file:
        draw(rows).savefig(file, format="png", dpi=150)
    with atomic_write(folder / "README.md") as file:
        file.write(page(rows, missing, describe(rows)).encode())


def page(rows: Sequence[dict[str, Any]], missing: Sequence[str], description: Description) -> str:
    """Return the README of a sweep: method, table, and missing rows."""
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
    if missing:
        paragraphs.append(f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.")
    machine = first["run"]["starts"][0]["hardware"]
    paragraphs += [
        "This command trains the first row:",
        "```bash\npython train.py " + " ".join(quoted(each) for each in first["overrides"]) + "\n```",
        f"The minutes of training and validation are from {machine['threads']} thread on {machine['cores']} cores of "
        f"{machine['processor']}, shared with other programs, and do not measure speed. Versions, commit, seed and "
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
        difference = share_of(row) - share_of(first)
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
    """Return the row with the fewest changes, then the best, among those within two standard errors of the best."""
    best = max(rows, key=share_of)
    near = [row for row in rows if share_of(best) - share_of(row) <= 2 * sqrt(variance_of(best) + variance_of(row))]
    return min(near, key=lambda row: (len(row["change"]), -share_of(row)))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, with each row's difference from the first at the radius."""
    radii = list(rows[0]["summary"]["certified_accuracy"])
    headings = ["row", "change", "parameters", "clean", *radii, f"difference at {RADIUS}", "ACR", "steps", "minutes"]
    lines = [f"| {' | '.join(headings)} |", f"| --- | --- {'| ---: ' * (len(headings) - 2)}|"]
    for row in rows:
        summary, run = row["summary"], row["run"]
        shares = [summary["clean_accuracy"], *(summary["certified_accuracy"][radius] for radius in radii)]
        difference = 100 * (share_of(row) - share_of(rows[0]))
        average = summary["average_certified_radius"]
        cells = [
            f"`{row['name']}`",
            " ".join(f"`{each}`" for each in row["change"]) or "-",
            f"{summary['parameters']:,}",
            *(f"{100 * share:.2f}" for share in shares),
            "-" if row is rows[0] else f"{difference:+.2f}",
            "-" if average is None else f"{average:.3f}",
            f"{run['steps']:,}",
            f"{run['seconds'] / 60:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw clean and certified accuracy of each row, with the first row's as vertical lines."""
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    series = {
        "clean": [100 * row["summary"]["clean_accuracy"] for row in rows],
        f"certified at {RADIUS}": [100 * share_of(row) for row in rows],
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


def share_of(row: dict[str, Any]) -> float:
    """Return the certified accuracy of a row at the radius of the comparison."""
    return float(row["summary"]["certified_accuracy"][RADIUS])


def variance_of(row: dict[str, Any]) -> float:
    """Return the variance of `share_of` due to the choice of images."""
    return share_of(row) * (1 - share_of(row)) / int(row["summary"]["n_samples"])


def quoted(override: str) -> str:
    """Quote an override for a shell, if necessary."""
    return f"'{override}'" if set(override) & set("[]{}()") else override
