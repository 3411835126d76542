"""Table and plot of the comparison of layers, made from the files of its rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from benchmarks.sweep_report import quoted
from lipnet.files import atomic_write
from tools.marks import replace_between

MARK = "layers_compared"
_RADII = (RADIUS, "72/255", "108/255")
_HEADINGS = ("layer", "clean", *_RADII, "parameters", "images/s", "MiB", "K", "rate", "epochs")


def write_report(folder: Path, names: Sequence[str], page: Path | None = None) -> None:
    """Write README.md and accuracy.png for the rows in ``folder``/rows, and the table between the marks of ``page``."""
    found = read_rows(folder, names)
    if not found:
        return
    rows, missing = list(found.values()), [name for name in names if name not in found]
    timing = json.loads((folder / "step_times.json").read_text())
    kind, _, name = timing["device"].removesuffix(")").partition(" (")
    timed = f"{threads_of(timing)} of {name}" if kind == "cpu" else f"one {name}"
    write_page(folder, readme(rows, missing, timed), draw(rows))
    if page is not None:
        content = replace_between(page.read_text(), "\n".join(table(rows)), page, MARK)
        with atomic_write(page) as file:
            file.write(content.encode())


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table, sorted by certified accuracy at `RADIUS`."""
    lines = []
    for row in sorted(rows, key=certified, reverse=True):
        summary = row["summary"]
        shares = [summary["clean_accuracy"], *(summary["certified_accuracy"][radius] for radius in _RADII)]
        line = [
            f"`{row['name']}`",
            *map(percent, shares),
            f"{summary['parameters']:,}",
            f"{row['images_per_second']:.0f}",
            f"{row['memory_bytes'] / 2**20:.0f}",
            f"{summary['lipschitz_bound']:.6f}",
            f"{row['rate']:g}",
            f"{row['run']['epochs']}",
        ]
        lines.append(line)
    return markdown_table(_HEADINGS, lines)


def readme(rows: Sequence[dict[str, Any]], missing: Sequence[str], timed: str) -> str:
    """Return the README of a comparison: protocol, table, plot, missing rows and commands.

    Args:
        rows: contents of the files of finished rows.
        missing: names of the rows that are not finished.
        timed: what the steps were timed on: ``"2 threads of PROCESSOR"``.
    """
    first = rows[0]
    summary = first["summary"]
    rates = " and ".join(first["validated"])
    paragraphs = [
        "# Layers compared: the same network, recipe and training time",
        f"Each row is one network on {summary['dataset']}, trained for as many steps as {timed} make in "
        f"{first['minutes']:g} minutes. Rows differ in the convolution alone. `gs_NAME` is group-and-shuffle over the "
        f"layer NAME. Of the learning rates {rates}, each row takes the one with the larger certified accuracy at "
        f"{RADIUS} on the validation images. `certify.py` certifies its best epoch in {summary['dtype']} on "
        f"{summary['n_samples']:,} {summary['split']} images.",
        "Accuracies are in %: clean, and certified at L2 radii (pixels in [0, 1]). Images per second are those of a "
        "training step. MiB is the peak of live memory in a training step. K is the Lipschitz bound of the "
        "network in pixels, normalisation included. Each row has one seed.",
        "\n".join(table(rows)),
        "![certified accuracy on the validation images during the training](accuracy.png)",
    ]
    paragraphs += not_run_yet(missing)
    failed = [f"`{row['name']}` at {rate}" for row in rows for rate, share in row["validated"].items() if share is None]
    if failed:
        paragraphs.append(f"These trainings failed: {', '.join(failed)}.")
    paragraphs += [
        "This command trains the first row of the list of layers:",
        "```bash\npython train.py " + " ".join(map(quoted, first["overrides"])) + "\n```",
        "`step_times.json` has the time of a step of each row, measured in turns on an otherwise idle machine. "
        "Versions, commit, seed and time of each row are in `rows/`. This command makes table and plot from these "
        "files:",
        "```bash\npython -m benchmarks.layers_compared --render\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw certified accuracy against training time: the layers alone, and group-and-shuffle over them."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    by_name = {row["name"]: row for row in rows}
    layers = sorted({name.removeprefix("gs_") for name in by_name})
    for axes, prefix in zip(panels, ("", "gs_"), strict=True):
        axes.set_title("group-and-shuffle over the layer" if prefix else "the layer alone")
        for number, layer in enumerate(layers):
            if (row := by_name.get(prefix + layer)) is not None:
                minutes = [seconds / 60 for seconds, _ in row["curve"]]
                shares = [100 * share for _, share in row["curve"]]
                axes.plot(minutes, shares, marker=".", color=f"C{number}", label=layer)
        axes.set_xlabel("training time, minutes")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    panels[0].set_ylabel(f"certified at {RADIUS} on validation images, %")
    return figure
