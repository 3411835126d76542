"""Training step and evaluation of LipConvNet-15 as multiples of a network of plain convolutions of the same shapes.

    python -m benchmarks.lipconvnet --batch 32 128 --output benchmarks/lipconvnet_cpu.json

All networks take turns in every round, so that whatever else the machine does meets them alike; the figures are ratios
of medians. 32 initial channels, images 3 x 32 x 32, 100 classes; a step is forward, backward and SGD with momentum. The
arithmetic that this takes is counted too: what a network would cost if all arithmetic were equally fast. The floor is
what its convolutions and matrix products must take at the peak of this machine, by arithmetic or by memory
(benchmarks/roofline.py); a third table says which part of the measured time that is.

On an accelerator: --device cuda, and what helps there: --autocast (bfloat16 in training), --channels-last, --compile
default or reduce-overhead (graphs of launches).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.published import PublishedGSSOC, PublishedSOC
from benchmarks.roofline import ContractionCounter, peaks_of
from lipnet.files import atomic_write
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


@dataclass(frozen=True)
class Setting:
    """How all networks of a run are computed.

    Attributes:
        device: where.
        autocast: bfloat16 in the training's convolutions; parameters and evaluation stay in float32.
        channels_last: images and weights in that layout.
        compile: a mode of ``torch.compile`` for the whole model, without a graph break in training; None for none.
    """

    device: torch.device
    autocast: bool = False
    channels_last: bool = False
    compile: str | None = None

    def images(self, batch: int) -> Tensor:
        return torch.rand(batch, 3, 32, 32, device=self.device).to(memory_format=self._layout)

    def model(self, make: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        return make().to(self.device, memory_format=self._layout)  # type: ignore[call-overload]

    def runner(self, model: nn.Module, training: bool) -> Callable[[Tensor], Tensor]:
        """What is called with images."""
        if self.compile is None:
            return model
        compiled: Callable[[Tensor], Tensor] = torch.compile(model, mode=self.compile, fullgraph=training)
        return compiled

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format


class Contestant:
    """A network with what its training step needs."""

    def __init__(self, make: Callable[[], nn.Module], setting: Setting) -> None:
        self.setting = setting
        self.model = setting.model(make)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self._training = setting.runner(self.model, training=True)
        self._evaluation = setting.runner(self.model, training=False)

    def training_step(self, images: Tensor, labels: Tensor) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.setting.autocast):
            loss = nn.functional.cross_entropy(self._training(images), labels)
        loss.backward()
        self.optimizer.step()

    def evaluation(self, images: Tensor, labels: Tensor) -> None:
        with torch.inference_mode():
            self._evaluation(images)


def contestant(make: Callable[[], nn.Module], device: torch.device) -> Contestant:
    """A network in single precision, as it is."""
    return Contestant(make, Setting(device))


def seconds(function: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def measure(names: Sequence[str], batch: int, rounds: int, setting: Setting) -> dict[str, dict[str, float]]:
    """Median seconds of each kind of each network; the first round of all warms up and does not count."""
    images = setting.images(batch)
    labels = torch.randint(100, (batch,), device=setting.device)
    contestants = {name: Contestant(VARIANTS[name], setting) for name in names}
    medians: dict[str, dict[str, float]] = {name: {} for name in names}
    for kind, method in zip(KINDS, ("training_step", "evaluation"), strict=True):
        for each in contestants.values():
            each.model.train(kind == KINDS[0])
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds + 1):
            for name, each in contestants.items():
                times[name].append(seconds(partial(getattr(each, method), images, labels), setting.device))
        for name, measured in times.items():
            medians[name][kind] = median(measured[1:])
    return medians


def count(names: Sequence[str], batch: int, setting: Setting) -> dict[str, dict[str, ContractionCounter]]:
    """The convolutions and matrix products of each kind of each network, as it runs without a compiler."""
    setting = replace(setting, compile=None)
    images = setting.images(batch)
    labels = torch.randint(100, (batch,), device=setting.device)
    counts: dict[str, dict[str, ContractionCounter]] = {}
    for name in names:
        each = Contestant(VARIANTS[name], setting)
        counts[name] = {}
        for kind, method in zip(KINDS, (each.training_step, each.evaluation), strict=True):
            each.model.train(kind == KINDS[0])
            method(images, labels)  # what is computed once and kept does not count
            with ContractionCounter() as counter:
                method(images, labels)
            counts[name][kind] = counter
    return counts


Figures = dict[int, dict[str, dict[str, float]]]
"""For each batch size, of each network: a number for each kind."""


def of_counts(counts: dict[int, dict[str, dict[str, ContractionCounter]]], figure: Callable[..., float]) -> Figures:
    """A number of each count."""
    return {
        batch: {name: {kind: figure(counter) for kind, counter in kinds.items()} for name, kinds in networks.items()}
        for batch, networks in counts.items()
    }


def report(results: Figures, title: str, others: Figures | None = None) -> Table:
    """A row for each network: multiples of the plain network, or the quotients by other figures of the same network."""
    table = Table(title=title)
    table.add_column("network")
    for batch in results:
        for kind in KINDS:
            table.add_column(f"{kind}, batch {batch}", justify="right")
    for name in next(iter(results.values())):
        quotients = [
            figures[name][kind] / (figures[PLAIN] if others is None else others[batch][name])[kind]
            for batch, figures in results.items()
            for kind in KINDS
        ]
        table.add_row(name, *(f"{quotient:.2f}" for quotient in quotients))
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
    parser.add_argument("--autocast", action="store_true", help="train in bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="images and weights in that layout")
    parser.add_argument("--compile", choices=["default", "reduce-overhead", "max-autotune"], help="of torch.compile")
    parser.add_argument("--output", type=Path, help="a JSON file for medians, counts and floors")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    setting = Setting(device, arguments.autocast, arguments.channels_last, arguments.compile)
    names = [PLAIN, *(arguments.only or [name for name in VARIANTS if name != PLAIN])]
    results: Figures = {batch: measure(names, batch, arguments.rounds, setting) for batch in arguments.batch}
    counts = {batch: count(names, batch, setting) for batch in arguments.batch}
    peaks = peaks_of(device, torch.bfloat16 if setting.autocast else torch.float32)
    operations = of_counts(counts, lambda counter: counter.operations)
    floors = of_counts(counts, lambda counter: counter.floor(peaks))
    ran = {"autocast": setting.autocast, "channels_last": setting.channels_last, "compile": setting.compile}
    about = machine(device) | {"rounds": arguments.rounds} | {name: value for name, value in ran.items() if value}
    console = Console()
    console.print(report(results, "time, multiples of the plain network"))
    console.print(report(operations, "arithmetic, multiples of the plain network"))
    console.print(report(floors, "floor of the contractions, part of the measured time", results))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    console.print(f"peaks: {peaks.operations / 1e9:.0f} GFLOP/s, {peaks.bytes / 1e9:.0f} GB/s")
    if arguments.output is not None:
        content = {
            "machine": about,
            "peaks": peaks._asdict(),
            "median_seconds": results,
            "operations": operations,
            "bytes": of_counts(counts, lambda counter: counter.bytes),
            "floor_seconds": floors,
        }
        with atomic_write(arguments.output) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
