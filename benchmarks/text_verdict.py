"""Conclusions of the text study: the adapters compared with each other, and with peft's."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from benchmarks.pages import markdown_table
from benchmarks.text_data import TASKS
from benchmarks.text_methods import ALL_METHODS, METHODS, PEERS


@dataclass(frozen=True)
class Entry:
    """Rows of a method at a budget on one task, one row for each seed. Scores are in per cent."""

    rows: tuple[dict[str, Any], ...]

    @property
    def scores(self) -> list[float]:
        return [100 * row["dev"] for row in self.rows]

    @property
    def mean(self) -> float:
        return fmean(self.scores)

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds, None for a single one."""
        return stdev(self.scores) if len(self.rows) > 1 else None

    def average(self, key: str) -> float:
        return fmean(row[key] for row in self.rows)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.spread is None else f" ± {self.spread:.1f}")

    def compared(self, other: "Entry") -> str:
        """Return "above" or "below" if the means differ by more than two standard errors, else "level".

        Raises:
            ValueError: unless both have at least two seeds.
        """
        if self.spread is None or other.spread is None:
            raise ValueError(f"a comparison needs two seeds of each, got {len(self.rows)} and {len(other.rows)}")
        limit = 2 * sqrt(self.spread**2 / len(self.rows) + other.spread**2 / len(other.rows))
        difference = self.mean - other.mean
        return "level" if abs(difference) <= limit else "above" if difference > 0 else "below"


Entries = dict[tuple[str, str, str], Entry]


def compared(entries: Entries, task: str, other: str) -> dict[str, list[str]]:
    """Return the labels of the adapters that are "above", "level" with and "below" a method, at the larger budget."""
    found: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    reference = entries.get((task, other, METHODS[other].largest_budget))
    for name, method in METHODS.items():
        entry = entries.get((task, name, "large"))
        several = entry is not None and reference is not None and min(len(entry.rows), len(reference.rows)) > 1
        if name != other and several:
            assert entry is not None
            assert reference is not None
            found[entry.compared(reference)].append(method.label)
    return found


def verdict(entries: Entries) -> list[str]:
    """Compare the adapters at the larger budget with LoRA, GSOFT, the head alone and full fine-tuning."""
    lines = []
    for task, about in TASKS.items():
        for other in ("lora", "gsoft", "head", "full"):
            found = {name: labels for name, labels in compared(entries, task, other).items() if labels}
            if found:
                said = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in found.items())
                lines.append(f"- {about.label}, compared with {METHODS[other].label}: {said}.")
    if not lines:
        return []
    introduction = (
        "The list compares the adapters at the larger budget. Two methods are level if their means differ by at most "
        "two standard errors of the difference, over the seeds. The paper on GSOFT expects it to be at least level "
        "with OFT and BOFT, and near LoRA. Here, this expectation holds if GSOFT is below none of the three."
    )
    return [introduction, "\n".join(lines), *expectation(entries)]


def expectation(entries: Entries) -> list[str]:
    """Say for each task whether GSOFT is at least level with OFT, BOFT and LoRA."""
    said = []
    for task, about in TASKS.items():
        gsoft = entries.get((task, "gsoft", "large"))
        others = {name: entries.get((task, name, "large")) for name in ("oft", "boft", "lora")}
        if gsoft is None or any(entry is None or len(entry.rows) < 2 for entry in (gsoft, *others.values())):
            continue
        results = {name: gsoft.compared(entry) for name, entry in others.items() if entry is not None}
        holds = "below" not in results.values()
        said_of = {"level": "level with", "above": "above", "below": "below"}
        words = ", ".join(f"{said_of[result]} {METHODS[name].label}" for name, result in results.items())
        said.append(f"On {about.label}, the expectation {'holds' if holds else 'does not hold'}: GSOFT is {words}.")
    return [" ".join(said)] if said else []


def edges(entries: Entries) -> list[str]:
    """Name the methods whose best learning rate is the lowest or the highest of their three."""
    rates = {name: entry.rows[0]["rate"] for (_, name, _), entry in entries.items()}
    found = [m.label for name, m in METHODS.items() if rates.get(name) in (m.rates[0], m.rates[-1])]
    return [f"The best of three learning rates is the lowest or the highest for: {', '.join(found)}."] if found else []


def peers(entries: Entries) -> list[str]:
    """Return the section about peft: scores, time and memory side by side."""
    lines, words = [], []
    for pair in PEERS.values():
        ours, theirs = (entries.get(("cola", name, "large")) for name in pair)
        if ours is None or theirs is None:
            continue
        label = ALL_METHODS[pair[1]].label
        cells = [label, str(ours), str(theirs)]
        cells += [f"{entry.average('cpu_seconds') / 60:.1f}" for entry in (ours, theirs)]
        cells += [f"{entry.average('peak_bytes') / 2**20:,.0f}" for entry in (ours, theirs)]
        lines.append(cells)
        if min(len(ours.rows), len(theirs.rows)) > 1:
            words.append(f"{label}: lipnet is {ours.compared(theirs)}")
    if not lines:
        return []
    figures = [f"{figure}, {package}" for figure in ("CoLA", "minutes", "peak MiB") for package in ("lipnet", "peft")]
    introduction = (
        "The table compares the same structures from lipnet and from peft, at the larger budget, with the same head, "
        "sentences, order, dropout and learning rate. peft's OFT has no scales, and without CUDA its BOFT has one "
        "factor, so lipnet's OFT has no scales and its BOFT one factor here. lipnet's skew-symmetric generators are "
        "A - A^T with a parameter A, so Adam moves them twice as fast as peft's. To make up for that, peft's rotations "
        "have twice the learning rate."
    )
    outcome = [f"By two standard errors: {'; '.join(words)}."] if words else []
    return [
        "## The same adapters in peft",
        introduction,
        "\n".join(markdown_table(["structure", *figures], lines)),
        *outcome,
    ]
