"""README and picture of the transfer study, made from the files of its bases and rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.pages import (
    RADIUS,
    certified,
    markdown_table,
    mean_and_spread,
    not_run_yet,
    percent,
    read_rows,
    write_page,
)
from benchmarks.transfer_rows import METHODS, RECIPE, TASKS, bases, methods_of, recipe_minutes, rows

EVERYTHING = "everything"
# Goal of a transfer: this share of the certified accuracy of fine-tuning everything, with at most this share of its
# parameters.
GOAL, LARGEST = 0.9, 0.25
Rows = Sequence[dict[str, Any]]


def write_report(folder: Path) -> None:
    """Write README.md and accuracy.png for the rows in ``folder``/rows, if there are any."""
    finished = read_rows(folder, [row.name for row in rows()])
    found: dict[str, dict[str, Rows]] = {}
    for task in TASKS:
        for method in methods_of(task):
            wanted = [row.name for row in rows() if (row.task, row.method) == (task, method)]
            if present := [finished[name] for name in wanted if name in finished]:
                found.setdefault(task, {})[method] = present
    if not found:
        return
    base_files = {base.task: folder / "trainings" / f"{base.name}.json" for base in bases()}
    trained = {task: json.loads(file.read_text()) for task, file in base_files.items() if task in found}
    missing = [row.name for row in rows() if row.name not in finished]
    write_page(folder, page(found, trained, missing), draw(found))


def page(found: dict[str, dict[str, Rows]], trained: dict[str, dict[str, Any]], missing: Sequence[str]) -> str:
    """Return the README: method, a table and a verdict for each task, and the commands."""
    paragraphs = [
        "# Certified transfer on CIFAR-100",
        f"A base is trained by `experiment={RECIPE}` for about {recipe_minutes():.0f} minutes of two cores. Then "
        "transfers train orthogonal maps between its frozen layers, its head, or everything, with the recipe's loss, "
        "batch size and crops. All transfers take about the same time. At the first seed, certified accuracy at "
        f"{RADIUS} on the validation images chose one of two learning rates. The last weights are certified on all "
        "test images, in float64.",
        "Accuracies are in %: clean, and certified at L2 radii (pixels in [0, 1]), means and standard deviations over "
        "the seeds. K is the Lipschitz bound. The last column is certified accuracy at "
        f"{RADIUS} as a share of that of fine-tuning everything.",
    ]
    for task, methods in found.items():
        summary = trained[task]["summary"]
        paragraphs += [
            f"## {TASKS[task].title}",
            f"On its own validation images, the base reaches {percent(summary['clean_accuracy'])} clean, and "
            f"{percent(summary['certified_accuracy'][RADIUS])} certified at {RADIUS}.",
            "\n".join(table(methods)),
            verdict(methods),
        ]
        if task == "coarse_to_fine":
            paragraphs.append(
                "The base has a head for 20 classes, so every transfer trains a new head. There are no GSOFT maps "
                "alone."
            )
    paragraphs += [
        "![certified accuracy against trained parameters](accuracy.png)",
        *not_run_yet(missing),
        "The first command prints parameters, steps and an estimate of the time. The second one trains and certifies, "
        "and resumes after an interruption. The third one makes this page from the files in `rows/` and `trainings/`:",
        "```bash\npython -m benchmarks.transfer_study --data-dir data --plan\n"
        "python -m benchmarks.transfer_study --data-dir data\npython -m benchmarks.transfer_study --render\n```",
        "Overrides, steps, versions and commit of each training are in `trainings/`. The steps follow from "
        "`step_times.json`.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def table(methods: dict[str, Rows]) -> list[str]:
    """Return the lines of a task's table, a line for each method."""
    radii = list(next(iter(methods.values()))[0]["summary"]["certified_accuracy"])
    headings = ["trained", "parameters", "share", "learning rate", "clean", *radii, "K", "seeds", "of everything"]
    lines = []
    for each in methods.values():
        first = each[0]
        share, part = share_of_parameters(methods, each), share_of_everything(methods, each)
        line = [
            first["label"],
            f"{first['trained_parameters']:,}",
            "" if share is None else f"{100 * share:.1f} %",
            f"{first['rate']:g}",
            mean_and_spread([row["summary"]["clean_accuracy"] for row in each]),
            *(mean_and_spread([row["summary"]["certified_accuracy"][radius] for row in each]) for radius in radii),
            f"{max(row['summary']['lipschitz_bound'] for row in each):.4f}",
            str(len(each)),
            "" if part is None else f"{100 * part:.0f} %",
        ]
        lines.append(line)
    return markdown_table(headings, lines)


def verdict(methods: dict[str, Rows]) -> str:
    """Compare the best small transfer with the goal."""
    small = {
        name: part
        for name, each in methods.items()
        if (share := share_of_parameters(methods, each)) is not None
        and share <= LARGEST
        and (part := share_of_everything(methods, each)) is not None
    }
    largest = f"at most {100 * LARGEST:.0f} % of the parameters"
    if not small:
        return f"Fine-tuning everything, or transfers with {largest}, are not run yet."
    best = max(small, key=lambda name: small[name])
    reached = "reaches" if small[best] >= GOAL else "does not reach"
    return (
        f"With {largest}, {METHODS[best].label} certifies the most at {RADIUS}: "
        f"{100 * small[best]:.0f} % of what fine-tuning everything does. That {reached} the goal of {100 * GOAL:.0f} %."
    )


def share_of_parameters(methods: dict[str, Rows], each: Rows) -> float | None:
    """Return trained parameters as a share of the network's, or None while fine-tuning everything is missing."""
    if EVERYTHING not in methods:
        return None
    return float(each[0]["trained_parameters"] / methods[EVERYTHING][0]["trained_parameters"])


def share_of_everything(methods: dict[str, Rows], each: Rows) -> float | None:
    """Return certified accuracy as a share of that of fine-tuning everything, or None while that is missing or 0."""
    whole = fmean(map(certified, methods[EVERYTHING])) if EVERYTHING in methods else 0.0
    return fmean(map(certified, each)) / whole if whole else None


def draw(found: dict[str, dict[str, Rows]]) -> Figure:
    """Plot certified accuracy against trained parameters, a panel for each task."""
    figure = Figure(figsize=(5 * len(found), 4.5), layout="constrained")
    plots = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (task, methods) in zip(plots, found.items(), strict=True):
        for name, marker in zip(METHODS, "os^vDPX*", strict=True):
            if name in methods:
                shares = [100 * certified(row) for row in methods[name]]
                error = stdev(shares) if len(shares) > 1 else 0.0
                trained = methods[name][0]["trained_parameters"]
                axes.errorbar(trained, mean(shares), yerr=error, fmt=marker, capsize=3, label=METHODS[name].label)
        axes.set(xscale="log", title=TASKS[task].title, xlabel="trained parameters")
        axes.set_ylabel(f"certified at {RADIUS}, % of the test images")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
