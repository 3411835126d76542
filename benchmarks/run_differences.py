"""Exact comparison of two finished runs of train.py: weights, momenta, logged figures and certificates."""

import csv
from pathlib import Path

from benchmarks.common import identical
from lipnet.certify import read_certificates
from lipnet.models.checkpoint import read_checkpoint


def differences(whole: Path, other: Path) -> list[str]:
    """List the differences between two finished runs.

    Figures before the last step may be missing in `other`: a kill loses rows that the logger has not written yet.
    """
    found = []
    for name in ("best.ckpt", "last.ckpt"):
        one, two = (read_checkpoint(folder / "checkpoints" / name)[0] for folder in (whole, other))
        parts = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
        found += [f"{name}: {part}" for part in parts if not identical(one[part], two[part])]
    first, second = (read_certificates(folder / "certificates.tsv") for folder in (whole, other))
    if list(first.rows.values()) != list(second.rows.values()):
        found.append("certificates")
    # A checkpoint contains the name of its folder, so its SHA-256 differs.
    found += [
        f"certificates: {key}"
        for key in first.facts
        if key != "checkpoint_sha256" and first.facts[key] != second.facts[key]
    ]
    expected, logged = figures_of(whole), figures_of(other)
    found += [f"figure {key}" for key, value in logged.items() if expected.get(key) != value]
    last = max(step for step, _ in expected)
    found += [f"figure {key} is missing" for key in expected if key[0] == last and key not in logged]
    return found


def figures_of(folder: Path) -> dict[tuple[int, str], str]:
    """Return the figures logged over all starts of a run, as text, by step and name."""
    figures = {}
    for path in sorted(folder.glob("csv/**/metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                # A kill may have cut the last line.
                if row["step"] and None not in row.values():
                    figures.update({(int(row["step"]), name): text for name, text in row.items() if text and name})
    return figures
