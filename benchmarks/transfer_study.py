"""Summary of certified transfers, from the folders of their runs.

    python -m benchmarks.transfer_study maps=RUN head=RUN all=RUN --base RUN --output results/transfer/halves

Each RUN is the folder of a ``train.py experiment=transfer/...`` run with certificates for the test images. summary.json
gets clean and certified accuracy, trained parameters and time; accuracy.png plots accuracy against trained parameters.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lipnet.files import atomic_write
from lipnet.models import load_checkpoint


def training_of(run: Path) -> dict[str, Any]:
    """Return the facts of a run's training.

    Raises:
        FileNotFoundError: if the folder is no run of train.py with checkpoints.
    """
    checkpoint = load_checkpoint(run / "checkpoints" / "best.ckpt")
    last = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    parameters = list(checkpoint.model.parameters())
    return {
        "dataset": checkpoint.dataset,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "steps": last["global_step"],
        "seconds": seconds_of(run),
        "settings": settings_of(run),
        "checkpoint_sha256": checkpoint.sha256,
    }


def facts_of(run: Path) -> dict[str, Any]:
    """Return the facts of a transfer's training and its certificates; errors as in `training_of`."""
    certified = json.loads((run / "summary.json").read_text())
    names = (
        "split",
        "n_samples",
        "clean_accuracy",
        "certified_accuracy",
        "average_certified_radius",
        "lipschitz_bound",
    )
    return {**training_of(run), **{name: certified[name] for name in names}, "versions": certified["versions"]}


def settings_of(run: Path) -> list[str]:
    """Return the overrides of the run's command, without paths of its machine."""
    overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    return [each for each in overrides if not each.startswith(("paths.", "ckpt_path="))]


def seconds_of(run: Path) -> float:
    """Return the time from the start of the run to its last checkpoint: training with validation."""
    start, end = (run / ".hydra" / "config.yaml").stat().st_mtime, (run / "checkpoints" / "last.ckpt").stat().st_mtime
    return round(end - start, 1)


def draw(runs: dict[str, dict[str, Any]]) -> Figure:
    """Plot clean and certified accuracy against trained parameters."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    radius = next(iter(next(iter(runs.values()))["certified_accuracy"]))
    trained = [run["trained_parameters"] for run in runs.values()]
    clean = [100 * run["clean_accuracy"] for run in runs.values()]
    certified = [100 * run["certified_accuracy"][radius] for run in runs.values()]
    axes.plot(trained, clean, "o", label="clean")
    axes.plot(trained, certified, "s", label=f"certified at {radius}")
    for name, x, y in zip(runs, trained, clean, strict=True):
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=9)
    axes.set_xscale("log")
    axes.margins(0.15)
    axes.set_xlabel("trained parameters")
    axes.set_ylabel("accuracy on the test images, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def report(runs: dict[str, dict[str, Any]]) -> Table:
    """Return a table with a row for each run."""
    table = Table(title="accuracy in %: clean, and certified at L2 radii (pixels in [0, 1])")
    radii = list(next(iter(runs.values()))["certified_accuracy"])
    for heading in ("", "trained", "share", "clean", *radii, "seconds"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, run in runs.items():
        shares = [run["clean_accuracy"], *run["certified_accuracy"].values()]
        table.add_row(
            name,
            f"{run['trained_parameters']:,}",
            f"{100 * run['trained_parameters'] / run['parameters']:.1f} %",
            *(f"{100 * share:.2f}" for share in shares),
            f"{run['seconds']:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER for each run")
    parser.add_argument("--base", type=Path, required=True, help="folder of the run that all others start from")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    runs = {name: facts_of(Path(folder)) for name, _, folder in (each.partition("=") for each in arguments.runs)}
    Console().print(report(runs))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    hardware = platform.processor() or platform.machine()
    about = {"commit": commit, "hardware": hardware, "base": training_of(arguments.base), "runs": runs}
    arguments.output.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output / "accuracy.png") as file:
        draw(runs).savefig(file, format="png", dpi=150)
    with atomic_write(arguments.output / "summary.json") as file:
        file.write(json.dumps(about, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
