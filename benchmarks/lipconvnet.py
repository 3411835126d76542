"""Training step and evaluation of LipConvNet-15 as multiples of a network of plain convolutions of the same shapes.

    python -m benchmarks.lipconvnet --batch 32 128 --output benchmarks/lipconvnet_cpu.json

All networks take turns in every round, so that whatever else the machine does meets them alike; the figures are ratios
of medians. 32 initial channels, images 3 x 32 x 32, 100 classes; a step is forward, backward and SGD with momentum. The
arithmetic that this takes is counted too: what a network would cost if all arithmetic were equally fast.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import PublishedGSSOC, PublishedSOC
from lipnet.files import whole_file
from lipnet.layers import GSSOC, SOC, MaxMinPermuted
from lipnet.models import LipConvNet

PLAIN = "plain"
KINDS = ("training step", "evaluation")


def plain_convolution(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    PLAIN: partial(LipConvNet, conv=plain_convolution, head=nn.Linear),
    "published SOC": partial(LipConvNet, conv=PublishedSOC),
    "lipnet SOC": partial(LipConvNet, conv=SOC),
    "published GS-SOC (4,-)": partial(LipConvNet, conv=PublishedGSSOC, activation=MaxMinPermuted),
    "lipnet GS-SOC (4,-)": partial(LipConvNet, conv=partial(GSSOC, groups=(4, None)), activation=MaxMinPermuted),
    "lipnet GS-SOC (4,-), circular": partial(
        LipConvNet, conv=partial(GSSOC, groups=(4, None), padding_mode="circular"), activation=MaxMinPermuted
    ),
}


@dataclass
class Contestant:
    """A network with what its training step needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def training_step(self, images: Tensor, labels: Tensor) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()

    def evaluation(self, images: Tensor, labels: Tensor) -> None:
        with torch.inference_mode():
            self.model(images)


def contestant(make: Callable[[], nn.Module], device: torch.device) -> Contestant:
    torch.manual_seed(0)
    model = make().to(device)
    return Contestant(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4))


def seconds(function: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def measure(names: Sequence[str], batch: int, rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median seconds of each kind of each network; the first round of all warms up and does not count."""
    images = torch.rand(batch, 3, 32, 32, device=device)
    labels = torch.randint(100, (batch,), device=device)
    contestants = {name: contestant(VARIANTS[name], device) for name in names}
    medians: dict[str, dict[str, float]] = {name: {} for name in names}
    for kind, method in zip(KINDS, ("training_step", "evaluation"), strict=True):
        for each in contestants.values():
            each.model.train(kind == KINDS[0])
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds + 1):
            for name, each in contestants.items():
                times[name].append(seconds(partial(getattr(each, method), images, labels), device))
        for name, measured in times.items():
            medians[name][kind] = median(measured[1:])
    return medians


def count(names: Sequence[str], batch: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Floating-point operations of the convolutions and matrix products of each kind of each network."""
    images = torch.rand(batch, 3, 32, 32, device=device)
    labels = torch.randint(100, (batch,), device=device)
    counts: dict[str, dict[str, float]] = {}
    for name in names:
        each = contestant(VARIANTS[name], device)
        counts[name] = {}
        for kind, method in zip(KINDS, (each.training_step, each.evaluation), strict=True):
            each.model.train(kind == KINDS[0])
            method(images, labels)  # what is computed once and kept does not count
            with FlopCounterMode(display=False) as counter:
                method(images, labels)
            counts[name][kind] = counter.get_total_flops()
    return counts


def report(results: dict[int, dict[str, dict[str, float]]], title: str) -> Table:
    """Multiples of the plain network, a row for each network."""
    table = Table(title=title)
    table.add_column("network")
    for batch in results:
        for kind in KINDS:
            table.add_column(f"{kind}, batch {batch}", justify="right")
    for name in next(iter(results.values())):
        ratios = [medians[name][kind] / medians[PLAIN][kind] for medians in results.values() for kind in KINDS]
        table.add_row(name, *(f"{ratio:.2f}" for ratio in ratios))
    return table


def machine(device: torch.device) -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device)
    return {"device": f"{device} ({name})", "threads": torch.get_num_threads(), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one that warms up")
    parser.add_argument(
        "--only", nargs="+", choices=[name for name in VARIANTS if name != PLAIN], help="leave out others"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="a JSON file for medians and counts")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    names = [PLAIN, *(arguments.only or [name for name in VARIANTS if name != PLAIN])]
    results = {batch: measure(names, batch, arguments.rounds, device) for batch in arguments.batch}
    counts = {batch: count(names, batch, device) for batch in arguments.batch}
    about = machine(device) | {"rounds": arguments.rounds}
    console = Console()
    console.print(report(results, "time, multiples of the plain network"))
    console.print(report(counts, "arithmetic, multiples of the plain network"))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.output is not None:
        with whole_file(arguments.output) as file:
            content = {"machine": about, "median_seconds": results, "operations": counts}
            file.write(json.dumps(content, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
