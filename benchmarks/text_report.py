"""Page, tables and plot of the text study, made from the files of its rows."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.pages import markdown_table, not_run_yet, read_rows, threads_of, write_page
from benchmarks.text_data import TASKS
from benchmarks.text_methods import METHODS
from benchmarks.text_verdict import Entries, Entry, edges, peers, verdict

_COLOURS = (*(f"C{number}" for number in range(10)), "black")


def entries_of(rows: Iterable[dict[str, Any]]) -> Entries:
    """Group the rows with dev scores by task, method and budget."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "dev" in row:
            grouped.setdefault((row["task"], row["method"], row["budget"]), []).append(row)
    return {key: Entry(tuple(found)) for key, found in grouped.items()}


def write_report(folder: Path, names: Sequence[str]) -> None:
    """Write README.md and scores.png for the rows in ``folder``/rows, if a method of the study has a dev score.

    Raises:
        ValueError: if rows of a task have different settings.
    """
    found = read_rows(folder, names)
    entries = entries_of(found.values())
    if not any(method in METHODS for _, method, _ in entries):
        return
    settings = {json.dumps([row["settings"], {row["task"]: row["sentences"]}]) for row in found.values()}
    if len(settings) > len({row["task"] for row in found.values()}):
        raise ValueError(f"all rows of a task must have the same settings, got {sorted(settings)} in {folder}")
    missing = [name for name in names if name not in found]
    write_page(folder, page(entries, list(found.values()), missing), draw(entries), picture="scores.png")


def page(entries: Entries, rows: Sequence[dict[str, Any]], missing: Sequence[str]) -> str:
    """Return the README of the study: method, tables, verdict, peers, and missing rows."""
    settings, machine = rows[0]["settings"], rows[0]["machine"]
    sentences = {row["task"]: f"{row['sentences']:,} sentences of {TASKS[row['task']].label}" for row in rows}
    paragraphs = [
        "# Adapters on a pretrained language model",
        f"MiniLM (6 layers, width 384) is fine-tuned on {' and '.join(sentences.values())}, "
        f"{settings['epochs']} epochs of batches of {settings['batch']}. Every adapter changes the weights of queries, "
        "keys, values and outputs in all attention layers, and trains a new head along with them. A held-out tenth of "
        "the training file chooses the epoch and, on CoLA at the larger budget, one of three learning rates for each "
        "method. The dev sentences are read once, at the end.",
        "Scores are in %: " + ", ".join(f"{task.score} for {task.label}" for task in TASKS.values()) + ". With several "
        "seeds, they are means and standard deviations. Trained parameters include the head's.",
        "\n".join(table(entries, score_columns())),
        "![score of each method against its trained parameters](scores.png)",
        *verdict(entries),
        "\n".join(table(entries, cost_columns())),
        "Minutes are the processor time of a training with its validation. Other programs on the machine raised it, by "
        "up to a factor of two, so small differences say nothing. Memory is the peak resident size of the process. The "
        "interpreter and the packages take the same part of it in every row.",
        *edges(entries),
        *peers(entries),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items())
    paragraphs += [
        *not_run_yet(missing),
        f"The trainings had {threads_of(machine)} each on {machine['cores']} cores of {machine['processor']}, "
        f"with {versions}. Versions, commit and seed of each row are in `rows/`. These commands run the study and "
        "make tables and plot from the files of the rows:",
        "```bash\npython -m benchmarks.text_study --data-dir data/text\n"
        "python -m benchmarks.text_study --data-dir data/text --peers\n"
        "python -m benchmarks.text_study --render\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


Column = Callable[[dict[str, Entry]], str]


def score_columns() -> dict[str, Column]:
    """Return the columns of the table of scores. Each makes a cell from the entries of a method and budget by task."""
    columns: dict[str, Column] = {"trained parameters": lambda found: f"{_first(found)['trained_parameters']:,}"}
    for name, task in TASKS.items():
        columns[task.label] = lambda found, name=name: str(found.get(name, "-"))  # type: ignore[misc]
    columns["average"] = lambda found: (
        f"{fmean(entry.mean for entry in found.values()):.1f}" if len(found) == len(TASKS) else "-"
    )
    return columns


def cost_columns() -> dict[str, Column]:
    """Return the columns of the table of costs."""
    columns: dict[str, Column] = {"learning rate": lambda found: f"{_first(found)['rate']:g}"}
    for name, task in TASKS.items():
        columns |= {
            f"epoch, {task.label}": lambda found, name=name: (  # type: ignore[misc]
                ", ".join(str(row["epoch"]) for row in found[name].rows) if name in found else "-"
            ),
            f"minutes, {task.label}": lambda found, name=name: (  # type: ignore[misc]
                f"{found[name].average('cpu_seconds') / 60:.1f}" if name in found else "-"
            ),
            f"peak MiB, {task.label}": lambda found, name=name: (  # type: ignore[misc]
                f"{found[name].average('peak_bytes') / 2**20:,.0f}" if name in found else "-"
            ),
        }
    return columns


def _first(found: dict[str, Entry]) -> dict[str, Any]:
    return next(iter(found.values())).rows[0]


def table(entries: Entries, columns: dict[str, Column]) -> list[str]:
    """Return the lines of a table with a row for each method and budget."""
    lines = []
    for name, method in METHODS.items():
        for budget in reversed(method.budgets):
            found = {task: entries[task, name, budget] for task in TASKS if (task, name, budget) in entries}
            if found:
                lines.append([method.label, *(cell(found) for cell in columns.values())])
    return markdown_table(["method", *columns], lines)


def draw(entries: Entries) -> Figure:
    """Plot the scores against trained parameters, a panel for each task."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, (task, about) in zip(figure.subplots(1, len(TASKS)), TASKS.items(), strict=True):
        for number, (name, method) in enumerate(METHODS.items()):
            found = [entries[task, name, budget] for budget in method.budgets if (task, name, budget) in entries]
            axes.errorbar(
                [entry.rows[0]["trained_parameters"] for entry in found],
                [entry.mean for entry in found],
                yerr=[entry.spread or 0 for entry in found],
                fmt="os^vDP*Xd<>"[number] + "-",
                color=_COLOURS[number],
                linewidth=0.8,
                capsize=3,
                label=method.label,
            )
        axes.set(xscale="log", xlabel="trained parameters", ylabel=f"{about.score}, %", title=about.label)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
