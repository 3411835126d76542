"""Adaptation of a small vision transformer from one half of CIFAR-100's classes to the other, by every adapter.

    python -m benchmarks.vision_study --data-dir data --work logs/vision_study --output results/vision_study

All adapters have about the same number of parameters, and a new head is trained along with each. The baselines are the
head alone and fine-tuning of everything. For every method, validation accuracy at the first seed selects the learning
rate. The test images are read once, at the end, for the selected rates.

The work folder keeps finished runs, so that a stopped command continues where it was. ``--seconds`` stops starting runs
after a time. Results are written once all runs are finished.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from benchmarks.lipconvnet import machine
from lipnet.data import CIFAR100FirstHalfDataModule, CIFAR100SecondHalfDataModule, ImageDataModule
from lipnet.files import atomic_write
from lipnet.structured.adapters import (
    BOFTConfig,
    CirculantConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    attach,
)

CLASSES = 50
BATCH = 128
SHAPE = {"image_size": 32, "patch_size": 8, "num_layers": 6, "num_heads": 4, "hidden_dim": 128, "mlp_dim": 384}


def everything(model: nn.Module) -> nn.Module:
    return model.requires_grad_(True)


def head_alone(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def adapter(config: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda model: attach(model, config, targets="encoder.*")


METHODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "head alone": head_alone,
    "GSOFT, b = 4": adapter(GSOFTConfig(4, scale=False)),
    "Double GSOFT, b = 2": adapter(DoubleGSOFTConfig(2, scale=False)),
    "BOFT, b = 4": adapter(BOFTConfig(4, scale=False)),
    "OFT, b = 8": adapter(OFTConfig(8, scale=False)),
    "LoRA, rank 4": adapter(LoRAConfig(rank=4)),
    "low displacement rank 3": adapter(LowDisplacementRankConfig(rank=3)),
    "circulant": adapter(CirculantConfig()),
    "everything": everything,
}
RATES = (1e-3, 1e-2)


@dataclass(frozen=True)
class Run:
    """One adaptation."""

    method: str
    rate: float
    seed: int

    @property
    def file(self) -> str:
        name = self.method.replace(",", "").replace(" = ", "").replace(" ", "_")
        return f"{name}_rate{self.rate:g}_seed{self.seed}.pt"


def images_and_labels(module: ImageDataModule, split: str) -> tuple[Tensor, Tensor]:
    """Return the bytes (N, 3, 32, 32) and labels (N,) of a split: "training", "validation" or "test"."""
    dataset = module.training_dataset() if split == "training" else module.evaluation_dataset(split)
    return dataset.source.images[dataset.positions], dataset.source.labels[dataset.positions]


def as_input(images: Tensor) -> Tensor:
    return images.float().div_(127.5).sub_(1)


def batches(images: Tensor, labels: Tensor, steps: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random batches; each image is mirrored or not, and each batch shifted by up to 4 pixels."""
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = as_input(images[chosen])
        mirrored = torch.rand(BATCH, generator=generator) < 0.5
        x[mirrored] = x[mirrored].flip(3)
        top, left = torch.randint(9, (2,), generator=generator).tolist()
        padded = nn.functional.pad(x, (4, 4, 4, 4))
        yield padded[:, :, top : top + 32, left : left + 32], labels[chosen]


def train(model: nn.Module, data: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float) -> None:
    """Train by Adam, with a learning rate that rises over a tenth of the steps and then falls to zero."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    model.train()
    for images, labels in data:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    parts = zip(images.split(500), labels.split(500), strict=True)
    return sum(int((model(as_input(x)).argmax(1) == y).sum()) for x, y in parts) / len(images)


def pretrained(work: Path, data_dir: str, steps: int) -> nn.Module:
    """Return the transformer for the first half of the classes, from the work folder or trained now."""
    torch.manual_seed(0)
    model = VisionTransformer(num_classes=CLASSES, **SHAPE)
    path = work / "base.pt"
    if not path.exists():
        data = CIFAR100FirstHalfDataModule(data_dir=data_dir)
        start = time.perf_counter()
        training = batches(*images_and_labels(data, "training"), steps, torch.Generator().manual_seed(0))
        train(model, training, steps, rate=1e-3)
        facts = {
            "state": model.state_dict(),
            "steps": steps,
            "validation": accuracy(model, *images_and_labels(data, "validation")),
            "seconds": time.perf_counter() - start,
        }
        save(facts, path)
    model.load_state_dict(torch.load(path, weights_only=True)["state"])
    return model


def adapted(base: nn.Module, run: Run) -> nn.Module:
    """Return a copy of the base with the run's method applied and a head of zeros, as the classes are new."""
    torch.manual_seed(run.seed)
    model = VisionTransformer(num_classes=CLASSES, **SHAPE)
    model.load_state_dict(base.state_dict())
    METHODS[run.method](model)
    for parameter in model.heads.parameters():
        nn.init.zeros_(parameter).requires_grad_(True)
    return model


def perform(run: Run, base: nn.Module, data: ImageDataModule, work: Path, steps: int) -> dict[str, Any]:
    """Return a run's trained parameters and validation accuracy, from the work folder or trained now."""
    path = work / run.file
    if not path.exists():
        model = adapted(base, run)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(run.seed)
        train(model, batches(*images_and_labels(data, "training"), steps, generator), steps, run.rate)
        seconds = time.perf_counter() - start
        trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        validation = accuracy(model, *images_and_labels(data, "validation"))
        save({"trained": trained, "steps": steps, "seconds": seconds, "validation": validation}, path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    if content["steps"] != steps:
        raise ValueError(f"{path} must be a run of {steps} steps, got {content['steps']}; choose another work folder")
    return content


def save(content: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        torch.save(content, file)


def chosen_runs(done: dict[Run, dict[str, Any]], seeds: Sequence[int]) -> dict[str, list[Run]]:
    """Return every method's runs at the rate with the best validation accuracy at the first seed."""
    chosen = {}
    for method in METHODS:
        rate = max(RATES, key=lambda rate: done[Run(method, rate, seeds[0])]["validation"])
        chosen[method] = [Run(method, rate, seed) for seed in seeds]
    return chosen


def row(runs: Sequence[Run], base: nn.Module, done: dict[Run, dict[str, Any]], test: tuple[Tensor, Tensor]) -> dict:
    """Return a method's test accuracy over the seeds, mean and standard deviation, and its trained parameters."""
    accuracies = []
    for run in runs:
        model = adapted(base, run)
        model.load_state_dict(done[run]["trained"], strict=False)
        accuracies.append(accuracy(model, *test))
    return {
        "trained_parameters": sum(value.numel() for value in done[runs[0]]["trained"].values()),
        "rate": runs[0].rate,
        "validation": [done[run]["validation"] for run in runs],
        "test": accuracies,
        "test_mean": mean(accuracies),
        "test_deviation": stdev(accuracies) if len(accuracies) > 1 else None,
        "seconds": mean(done[run]["seconds"] for run in runs),
    }


def draw(rows: dict[str, dict[str, Any]]) -> Figure:
    """Plot accuracy against trained parameters."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (method, each) in enumerate(rows.items()):
        axes.errorbar(
            each["trained_parameters"],
            100 * each["test_mean"],
            yerr=100 * (each["test_deviation"] or 0),
            fmt="os^vDP*Xd"[index],
            capsize=3,
            label=method,
        )
    axes.set_xscale("log")
    axes.set_xlabel("trained parameters, the new head's included")
    axes.set_ylabel("test accuracy on the new classes, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def report(rows: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="accuracy in % on the other half of the classes")
    for heading in ("method", "trained", "rate", "test", "seconds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, each in rows.items():
        spread = "" if each["test_deviation"] is None else f" ± {100 * each['test_deviation']:.2f}"
        figures = (f"{each['trained_parameters']:,}", f"{each['rate']:g}", f"{100 * each['test_mean']:.2f}{spread}")
        table.add_row(method, *figures, f"{each['seconds']:.0f}")
    return table


def write(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json and accuracy.png."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "accuracy.png") as file:
        draw(summary["methods"]).savefig(file, format="png", dpi=150)
    with atomic_write(folder / "summary.json") as file:
        file.write(json.dumps(summary, indent=1).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data", help="folder of cifar-100-python")
    parser.add_argument("--work", type=Path, default=Path("logs/vision_study"), help="folder of finished runs")
    parser.add_argument("--output", type=Path, default=Path("results/vision_study"))
    parser.add_argument("--pretraining-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=40, help="steps of each adaptation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after this time")
    arguments = parser.parse_args()

    end, console = time.monotonic() + arguments.seconds, Console()
    base = pretrained(arguments.work, arguments.data_dir, arguments.pretraining_steps)
    data = CIFAR100SecondHalfDataModule(data_dir=arguments.data_dir)
    done: dict[Run, dict[str, Any]] = {}

    def perform_all(runs: Sequence[Run]) -> bool:
        for run in runs:
            if time.monotonic() > end and not (arguments.work / run.file).exists():
                console.print(f"time is up before {run}: start the same command again to go on")
                return False
            done[run] = perform(run, base, data, arguments.work, arguments.steps)
        return True

    if not perform_all([Run(method, rate, arguments.seeds[0]) for method in METHODS for rate in RATES]):
        return
    chosen = chosen_runs(done, arguments.seeds)
    if not perform_all([run for runs in chosen.values() for run in runs]):
        return
    test = images_and_labels(data, "test")
    rows = {method: row(runs, base, done, test) for method, runs in chosen.items()}
    console.print(report(rows))
    facts = torch.load(arguments.work / "base.pt", weights_only=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    summary = {
        "command": "python -m benchmarks.vision_study",
        "commit": commit,
        "machine": machine(torch.device("cpu")),
        "config": {**SHAPE, "batch": BATCH, "steps": arguments.steps, "rates": RATES, "seeds": arguments.seeds},
        "base": {key: facts[key] for key in ("steps", "validation", "seconds")},
        "base_parameters": sum(parameter.numel() for parameter in base.parameters()),
        "wall_seconds": facts["seconds"] + sum(each["seconds"] for each in done.values()),
        "methods": rows,
    }
    write(arguments.output, summary)


if __name__ == "__main__":
    main()
