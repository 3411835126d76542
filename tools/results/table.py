"""Markdown table of measured results among published figures."""

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from lipnet.models.pretrained import SHIPPED
from tools.results.folders import Result
from tools.results.published import PublishedRow, setting

RADII = ("36/255", "72/255", "108/255")
# Title of each dataset, and its number of test images.
DATASETS = {
    "cifar100": ("CIFAR-100", 10_000),
    "cifar100_coarse": ("CIFAR-100 with its 20 coarse classes", 10_000),
    "cifar100_first_half": ("the first half of CIFAR-100's classes", 5_000),
    "cifar100_second_half": ("the second half of CIFAR-100's classes", 5_000),
    "cifar10": ("CIFAR-10", 10_000),
    "digits": ("scikit-learn's digits", 359),
}
_HEADINGS = ("", "parameters", "clean", *RADII, "training", "source")
_RULE = ("---", *("---:" for _ in range(2 + len(RADII))), "---", "---")
# Settings in which runs of one row may differ: seeds, and the display and storage of a training.
_IRRELEVANT = {
    "enable_model_summary",
    "enable_progress_bar",
    "epoch_log",
    "last_checkpoint",
    "learning_rate",
    "log_every_n_steps",
    "model_summary",
    "progress_bar",
    "run_record",
    "seed",
}
# Certified accuracy at the smallest radius, by which the table is sorted, and the cells of a line.
_Line = tuple[float, Sequence[str]]


def results_tables(results: Sequence[Result], published: Sequence[PublishedRow], links: str = "results") -> str:
    """Return a table for each dataset: measured rows in bold among published ones, sorted by certified accuracy.

    Runs that differ in their seed alone share a row, with the means of their figures.

    Args:
        results: the measured runs.
        published: the published rows; one that is no headline appears only beside a run that it matches.
        links: path from the page to the folder of all results.

    Raises:
        ValueError: for a dataset that is not in `DATASETS`, and for a result that lacks one of the radii.
    """
    names = {result.summary["dataset"] for result in results} | {row.dataset for row in published if row.headline}
    if unknown := sorted(names - DATASETS.keys()):
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {', '.join(unknown)}")
    parts = []
    for name in filter(names.__contains__, DATASETS):
        title = DATASETS[name][0]
        own = [result for result in results if result.summary["dataset"] == name]
        others = [row for row in published if row.dataset == name and (row.headline or any(map(row.matches, own)))]
        lines = [*(_measured_line(group, links) for group in group_by_settings(own)), *map(_published_line, others)]
        lines.sort(key=lambda line: -line[0])
        table = [f"| {' | '.join(cells)} |" for cells in (_HEADINGS, _RULE, *(cells for _, cells in lines))]
        intro = f"Test images of {title}, accuracy in %: clean, and certified at L2 radii (pixels in [0, 1])."
        parts.append("\n".join([intro, "", *table]))
        if not own:
            parts.append(f"No row on {title} is measured with lipnet yet.")
    return "\n\n".join(parts)


def group_by_settings(results: Sequence[Result]) -> list[list[Result]]:
    """Group results whose trainings differ in the seed alone, in the order of each group's first."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(_relevant_settings(result.config), sort_keys=True), []).append(result)
    return list(groups.values())


def _relevant_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _relevant_settings(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _IRRELEVANT
    }


def describe(config: Mapping[str, Any]) -> str:
    """Describe the trained network in a few words: ``LipConvNet-15, 32 channels, SOC, MaxMin, CrossEntropyLoss``."""
    if setting(config, "model.depth") is None:  # a network from a checkpoint
        return f"{config.get('task_name')}, {_class_name(config, 'loss')}"
    layer = "model.conv" if setting(config, "model.block") is None else "model.block"
    conv = _class_name(config, layer)
    groups = setting(config, f"{layer}.groups")
    if isinstance(groups, Sequence):
        paired = "paired" if setting(config, f"{layer}.paired") else "not paired"
        conv = f"{conv} ({','.join('-' if each is None else str(each) for each in groups)}) {paired}"
    if setting(config, f"{layer}.scaling") == "reshaped":
        conv += " as published"
    patches = setting(config, "model.patch_rotation")
    parts = [
        f"{_class_name(config, 'model') or 'LipConvNet'}-{setting(config, 'model.depth')}",
        f"patches of {patches} x {patches}" if isinstance(patches, int) and patches > 1 else "",
        f"{setting(config, 'model.initial_channels') or setting(config, 'model.channels')} channels",
        conv,
        *(_class_name(config, name) for name in ("model.activation", "model.head", "loss")),
        "mirror images" if setting(config, "model.mirror") else "",
        "labels of a teacher" if config.get("distillation") else "",
    ]
    return ", ".join(part for part in parts if part)


def _class_name(config: Mapping[str, Any], name: str) -> str:
    return str(setting(config, f"{name}._target_") or "").rpartition(".")[2]


def _measured_line(group: Sequence[Result], links: str) -> _Line:
    first, summaries = group[0], [result.summary for result in group]
    certified = {radius: [_certified(summary, radius) for summary in summaries] for radius in RADII}
    lowest, highest = min(certified[RADII[0]]), max(certified[RADII[0]])
    source = ", ".join(f"[{result.name}]({links}/{result.name})" for result in group)
    if len(group) == 1:
        source += f", seed {first.run['seed']}"
    else:
        source += f", mean of {len(group)} seeds ({lowest:.2f} to {highest:.2f} at {RADII[0]})"
    if first.summary["n_samples"] != DATASETS[first.summary["dataset"]][1]:
        source += f", first {first.summary['n_samples']:,} test images"
    names = {result.name for result in group}
    # Compact weights are in a folder of their own, with their own certificates.
    shipped = (name for name, folder in SHIPPED.items() if folder.removesuffix("/compact") in names)
    source += "".join(f"; weights: `{name}`" for name in shipped)
    means = [100 * mean(summary["clean_accuracy"] for summary in summaries), *map(mean, certified.values())]
    parameters = f"{first.summary['parameters'] / 1e6:.2f} M"
    figures = [f"**{share:.2f}**" for share in means]
    return means[1], (f"**{describe(first.config)}**", parameters, *figures, _training(group), source)


def _certified(summary: Mapping[str, Any], radius: str) -> float:
    shares: Mapping[str, float] = summary["certified_accuracy"]
    if radius not in shares:
        raise ValueError(f"a result must be certified at {radius}, got {', '.join(shares)}: certify it again")
    return 100 * shares[radius]


def _training(group: Sequence[Result]) -> str:
    """Describe the training: epochs, duration and machines."""
    epochs = [result.run["epochs"] for result in group]
    lowest, highest = min(epochs), max(epochs)
    if lowest < highest and all(result.run["planned_epochs"] is None and result.run["finished"] for result in group):
        progress = f"{lowest} to {highest} epochs"
    else:
        progress = ", ".join(dict.fromkeys(result.progress() for result in group))
    machines = dict.fromkeys(_machine(start["hardware"]) for result in group for start in result.run["starts"])
    duration = _duration(mean(result.run["seconds"] for result in group))
    return f"{progress}; {duration} of {' and '.join(machines)}{_teaching([result.run for result in group])}"


def _teaching(runs: Sequence[Mapping[str, Any]]) -> str:
    """Name the mean time of the teachers behind the runs; empty without teachers."""
    teachers = [run["teacher"]["run"] for run in runs if "teacher" in run]
    if not teachers:
        return ""
    if None in teachers:
        return "; and a teacher of unknown time"
    return f"; and {_duration(mean(teacher['seconds'] for teacher in teachers))} for its teacher{_teaching(teachers)}"


def _machine(hardware: Mapping[str, Any]) -> str:
    processes = hardware["processes"]
    if hardware["accelerator"] is not None:
        return f"{processes} {hardware['accelerator']}"
    threads = processes * hardware["threads"]
    return f"{threads} thread{'s' * (threads > 1)} of {hardware['processor']}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _published_line(row: PublishedRow) -> _Line:
    certified = [row.certified.get(radius, "-") for radius in RADII]
    return float(certified[0]), (row.name, row.parameters, row.clean, *certified, row.training, row.source)
