"""README and picture of the vision study, made from the files of its rows."""

from collections.abc import Iterable, Sequence
from math import hypot
from pathlib import Path
from statistics import fmean, mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.pages import markdown_table, mean_and_spread, not_run_yet, percent, read_rows, write_page
from benchmarks.vision_methods import HEAD
from benchmarks.vision_row import BASE


def write_report(folder: Path, names: Sequence[str]) -> None:
    """Write README.md and accuracy.png for the rows in ``folder``/rows, if base and head alone are there."""
    rows = read_rows(folder, [BASE, *names])
    base = rows.pop(BASE, None)
    methods = by_method(rows.values())
    if base is None or HEAD not in methods:
        return
    missing = [name for name in names if name not in rows]
    write_page(folder, page(base, methods, missing), draw(methods))


def by_method(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each method, one for each seed."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        methods.setdefault(row["method"], []).append(row)
    return methods


def page(base: dict[str, Any], methods: dict[str, list[dict[str, Any]]], missing: Sequence[str]) -> str:
    """Return the README: method, table, the methods that gain nothing, and the commands."""
    first = methods[HEAD][0]
    machine = base["machine"]
    paragraphs = [
        "# Adapters on a small residual network",
        f"A residual network of {base['parameters']['network']:,} parameters was trained on the classes 0 to 49 of "
        f"CIFAR-100 for {base['epochs']} epochs with crops and flips, to {percent(base['validation'])} % of its "
        f"validation images. Then it was adapted to the classes 50 to 99 for {first['epochs']} epochs, with a new head "
        "in every case. Adapters change the 3 x 3 convolutions of the residual blocks and have about the same number "
        "of parameters. Frozen normalisations keep their statistics.",
        f"{head_rate(methods)}For each method, validation accuracy at the first seed chose one of two learning rates. "
        "The test images were read once, by the rows at the chosen rates. An earlier study, in which head and adapter "
        "shared a learning rate, had read them before.",
        "\n".join(table(methods)),
        "Test accuracies are means and standard deviations over the seeds. Parameters include the head's "
        f"{first['parameters']['head']:,}.",
        verdict(methods),
        "![test accuracy of each method](accuracy.png)",
    ]
    paragraphs += [
        *not_run_yet(missing),
        "The first command prints rows, parameters and an estimate of the time. The second one trains, and resumes "
        "after an interruption. The third one makes this page from the files in `rows/`:",
        "```bash\npython -m benchmarks.vision_study --data-dir data --plan\n"
        "python -m benchmarks.vision_study --data-dir data\npython -m benchmarks.vision_study --render\n```",
        f"Minutes are from one thread on a shared {machine['processor']} with {machine['cores']} cores and do not "
        "measure speed. History, commit and versions of each row are in `rows/`.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def head_rate(methods: dict[str, list[dict[str, Any]]]) -> str:
    """Return a sentence about the learning rate of the head in the other methods; nothing without such rows."""
    rates = [row["head_rate"] for name, rows in methods.items() if name != HEAD for row in rows]
    return f"With every other method, the new head has a learning rate of its own, {rates[0]:g}. " if rates else ""


def table(methods: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of the table, a line for each method."""
    headings = ["method", "setting", "parameters", "share", "learning rate", "validation", "test", "seeds", "minutes"]
    lines = []
    for rows in methods.values():
        first, parameters = rows[0], rows[0]["parameters"]
        line = [
            first["label"],
            first["setting"] or "-",
            f"{parameters['trained']:,}",
            f"{100 * parameters['trained'] / parameters['network']:.1f} %",
            f"{first['rate']:g}",
            percent(mean(row["validation"] for row in rows)),
            mean_and_spread([row["test"] for row in rows]),
            str(len(rows)),
            f"{mean(row['seconds'] for row in rows) / 60:.1f}",
        ]
        lines.append(line)
    return markdown_table(headings, lines, texts=2)


def verdict(methods: dict[str, list[dict[str, Any]]]) -> str:
    """Name the methods that do not exceed the head alone, with figures that may explain why."""
    head = methods[HEAD]
    behind = {
        name: rows
        for name, rows in methods.items()
        if name != HEAD and score(rows) - score(head) <= 2 * hypot(spread(rows), spread(head))
    }
    if not behind:
        return (
            "Every other method exceeds the head alone by more than twice the standard deviation of the difference "
            "over the seeds."
        )
    lines = [
        "These methods do not exceed the head alone by more than twice the standard deviation of the difference over "
        "the seeds. The list has their distance from the head alone and, at the first seed, the validation accuracies "
        "at both learning rates and the training loss in the last epoch. That loss is "
        f"{head[0]['history'][-1]['loss']:.2f} with the head alone.\n"
    ]
    for rows in behind.values():
        first = rows[0]
        rates = ", ".join(f"{percent(share)} % at {float(rate):g}" for rate, share in first["validated"].items())
        lines.append(
            f"- {first['label']}{', ' + first['setting'] if first['setting'] else ''}, on {first['place']}: "
            f"{100 * (score(rows) - score(head)):+.2f} points; {rates}; loss {first['history'][-1]['loss']:.2f}."
        )
    return "\n".join(lines)


def draw(methods: dict[str, list[dict[str, Any]]]) -> Figure:
    """Plot the test accuracy of each method, a line for each, with its trained parameters."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    names = []
    for place, rows in enumerate(methods.values()):
        axes.errorbar(100 * score(rows), place, xerr=100 * spread(rows), fmt="o", color="tab:blue", capsize=3)
        names.append(f"{rows[0]['label']} ({rows[0]['parameters']['trained']:,})")
    axes.axvline(100 * score(methods[HEAD]), color="gray", linestyle=":", zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy on the new classes, %")
    axes.set_ylabel("method (trained parameters)")
    axes.grid(alpha=0.3)
    return figure


def score(rows: Sequence[dict[str, Any]]) -> float:
    """Return the mean test accuracy."""
    return fmean(row["test"] for row in rows)


def spread(rows: Sequence[dict[str, Any]]) -> float:
    """Return the standard deviation of the test accuracy over the seeds; 0 for one seed."""
    return stdev(row["test"] for row in rows) if len(rows) > 1 else 0.0
