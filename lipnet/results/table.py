"""The table of measured results beside the published figures, as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from lipnet.results.folders import Result
from lipnet.results.published import PublishedRow, setting

RADII = ("36/255", "72/255", "108/255")
# How a data set is called, and how many test images it has.
DATASETS = {
    "cifar100": ("CIFAR-100", 10_000),
    "cifar100_coarse": ("CIFAR-100 with its 20 coarse classes", 10_000),
    "cifar100_first_half": ("the first half of CIFAR-100's classes", 5_000),
    "cifar100_second_half": ("the second half of CIFAR-100's classes", 5_000),
    "cifar10": ("CIFAR-10", 10_000),
    "digits": ("scikit-learn's digits", 359),
}
_NOT_SHAPING = frozenset(
    {
        "enable_model_summary",
        "enable_progress_bar",
        "last_checkpoint",
        "learning_rate",
        "log_every_n_steps",
        "model_summary",
        "progress_bar",
        "run_record",
    }
)
_HEADINGS = ("", "parameters", "clean", *RADII, "training", "source")


@dataclass(frozen=True)
class _Line:
    """A line of the table, with the figure that lines are sorted by."""

    certified: float
    cells: tuple[str, ...]


def results_tables(results: Sequence[Result], published: Sequence[PublishedRow], links: str = "results") -> str:
    """A table for each data set: measured rows, in bold, among published ones, the highest certified accuracy first.

    Runs that differ in their seed alone are one row, with the means of their figures.

    Args:
        results: the measured rows.
        published: the others; those that are no headlines appear with a measured row of their kind.
        links: the folder of all results, as the page with the table calls it.

    Returns:
        Markdown, without an end of line.

    Raises:
        ValueError: for a data set that is not one of `DATASETS`, and for a result that lacks one of the radii.
    """
    names = {result.summary["dataset"] for result in results} | {row.dataset for row in published if row.headline}
    unknown = names - set(DATASETS)
    if unknown:
        raise ValueError(
            f"there are results on {', '.join(sorted(unknown))}, of which lipnet.results.table knows nothing"
        )
    parts = []
    for name in filter(names.__contains__, DATASETS):
        own = [result for result in results if result.summary["dataset"] == name]
        others = [row for row in published if row.dataset == name and (row.headline or any(map(row.is_of, own)))]
        lines = [*(_measured(group, links) for group in groups(own)), *map(_published, others)]
        lines.sort(key=lambda line: -line.certified)
        title = (
            f"Test images of {DATASETS[name][0]}, accuracy in %: clean, and certified at L2 radii (pixels in [0, 1])."
        )
        parts.append("\n".join([title, "", *_markdown([line.cells for line in lines])]))
        if not own:
            parts.append(f"No row on {DATASETS[name][0]} is measured with lipnet yet.")
    return "\n\n".join(parts)


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """Results that differ in nothing that counts but the seed, together; ordered by the first of each group."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(json.dumps(_what_counts(result.config), sort_keys=True), []).append(result)
    return list(found.values())


def _what_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without its seeds, and without what shows or keeps a training and does not shape it."""
    return {
        key: _what_counts(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key != "seed" and key not in _NOT_SHAPING
    }


def describe(config: Mapping[str, Any]) -> str:
    """What a configuration trains, in a few words.

    Example:
        >>> soc = {"_target_": "lipnet.layers.SOC"}
        >>> describe({"model": {"depth": 15, "initial_channels": 32, "conv": soc}, "loss": {"_target_": "a.Hinge"}})
        'LipConvNet-15, 32 channels, SOC, Hinge'
    """
    if setting(config, "model.depth") is None:
        # A network that comes from a checkpoint.
        return f"{config.get('task_name')}, {_class(config, 'loss')}"
    parts = [f"LipConvNet-{setting(config, 'model.depth')}", f"{setting(config, 'model.initial_channels')} channels"]
    conv = _class(config, "model.conv")
    shuffles = setting(config, "model.conv.groups")
    if isinstance(shuffles, Sequence):
        paired = "paired" if setting(config, "model.conv.paired") else "not paired"
        conv = f"{conv} ({','.join('-' if each is None else str(each) for each in shuffles)}) {paired}"
    if setting(config, "model.conv.scaling") == "reshaped":
        conv += " as published"
    parts += [conv, *(_class(config, name) for name in ("model.activation", "model.head", "loss"))]
    return ", ".join(part for part in parts if part)


def _class(config: Mapping[str, Any], name: str) -> str:
    return str(setting(config, f"{name}._target_") or "").rpartition(".")[2]


def _measured(group: Sequence[Result], links: str) -> _Line:
    first, summaries = group[0], [result.summary for result in group]
    shares = {radius: mean(_share(summary, radius) for summary in summaries) for radius in RADII}
    names = ", ".join(f"[{result.name}]({links}/{result.name})" for result in group)
    cells = (
        f"**{describe(first.config)}**",
        f"{first.summary['parameters'] / 1e6:.2f} M",
        *(f"**{100 * share:.2f}**" for share in (mean(each["clean_accuracy"] for each in summaries), *shares.values())),
        _training(group),
        f"{names}{_seeds(group)}{_samples(first)}",
    )
    return _Line(100 * shares[RADII[0]], cells)


def _share(summary: Mapping[str, Any], radius: str) -> float:
    shares: Mapping[str, float] = summary["certified_accuracy"]
    if radius not in shares:
        raise ValueError(f"a result was certified at {', '.join(shares)} and lacks {radius}: certify it with its radii")
    return shares[radius]


def _seeds(group: Sequence[Result]) -> str:
    if len(group) == 1:
        return f", seed {group[0].run['seed']}"
    shares = [_share(result.summary, RADII[0]) for result in group]
    return f", mean of {len(group)} seeds ({100 * min(shares):.2f} to {100 * max(shares):.2f} at {RADII[0]})"


def _samples(result: Result) -> str:
    """What is to be said where not all test images were certified."""
    count = result.summary["n_samples"]
    return "" if count == DATASETS[result.summary["dataset"]][1] else f", first {count:,} test images"


def _training(group: Sequence[Result]) -> str:
    """How far the runs came, and how long that took on what."""
    progress = ", ".join(dict.fromkeys(result.progress() for result in group))
    machines = dict.fromkeys(_machine(start["hardware"]) for result in group for start in result.run["starts"])
    return f"{progress}; {_duration(mean(result.run['seconds'] for result in group))} of {' and '.join(machines)}"


def _machine(hardware: Mapping[str, Any]) -> str:
    processes = hardware["processes"]
    if hardware["accelerator"] is not None:
        return f"{processes} {hardware['accelerator']}"
    threads = processes * hardware["threads"]
    return f"{threads} thread{'s' * (threads > 1)} of {hardware['processor']}"


def _duration(seconds: float) -> str:
    """Two digits are enough to compare by.

    Example:
        >>> [_duration(each) for each in (42.0, 1620.0, 30000.0)]
        ['42 s', '27 min', '8.3 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _published(row: PublishedRow) -> _Line:
    certified = (row.certified.get(radius, "-") for radius in RADII)
    return _Line(
        float(row.certified[RADII[0]]), (row.name, row.parameters, row.clean, *certified, row.training, row.source)
    )


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in range(2 + len(RADII))), "---", "---"]
    return [f"| {' | '.join(cells)} |" for cells in (_HEADINGS, rule, *rows)]
