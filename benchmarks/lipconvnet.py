"""Time of a training step and an evaluation of LipConvNet-15, as multiples of a plain convolutional network.

    python -m benchmarks.lipconvnet --batch 32 128 --output benchmarks/lipconvnet_cpu.json

The plain network has the same shapes: 32 initial channels, images 3 x 32 x 32, 100 classes. A training step is forward,
backward and SGD with momentum. All networks take turns in every round, so that other load on the machine affects them
alike; the figures are ratios of medians. A second table has ratios of counted arithmetic. A third has the floor as a
share of the measured time: the time that the convolutions and matrix products would take at the machine's peak, limited
by arithmetic or by memory (`benchmarks.roofline`).

On an accelerator use --device cuda, and --autocast (bfloat16 in training), --channels-last, or --compile default or
reduce-overhead (CUDA graphs).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import machine, medians_in_turn, write_json
from benchmarks.published import PublishedGSSOC, PublishedSOC
from benchmarks.roofline import ContractionCounter, peaks_of
from lipnet.layers import GSSOC, SOC, MaxMinPermuted
from lipnet.models import LipConvNet

PLAIN = "plain"
KINDS = ("training step", "evaluation")


def plain_convolution(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Module:
    """Return a plain convolution with zero padding that keeps the size, apart from its stride."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)


VARIANTS: dict[str, Callable[..., nn.Sequential]] = {
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
    """Device, precision, layout and compilation of all networks of a run.

    Attributes:
        device: device of the networks.
        autocast: train the convolutions in bfloat16; parameters and evaluation stay in float32.
        channels_last: store images and weights in the channels-last layout.
        compile: mode of ``torch.compile`` for the whole model; a graph break in training is an error. None: do not
            compile.
    """

    device: torch.device
    autocast: bool = False
    channels_last: bool = False
    compile: str | None = None

    def images(self, batch: int) -> Tensor:
        """Return random images (batch, 3, 32, 32)."""
        return torch.rand(batch, 3, 32, 32, device=self.device).to(memory_format=self._layout)

    def model(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Return a seeded network on the device."""
        torch.manual_seed(0)
        return make().to(self.device).to(memory_format=self._layout)

    def compiled(self, model: nn.Module, training: bool) -> Callable[[Tensor], Tensor]:
        if self.compile is None:
            return model
        return cast(Callable[[Tensor], Tensor], torch.compile(model, mode=self.compile, fullgraph=training))

    def facts(self) -> dict[str, Any]:
        """Return facts on the machine, and the settings that differ from the defaults."""
        ran = {"autocast": self.autocast, "channels_last": self.channels_last, "compile": self.compile}
        return machine(self.device) | {name: value for name, value in ran.items() if value}

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add the options of a `Setting`."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="train in bfloat16")
    parser.add_argument("--channels-last", action="store_true", help="channels-last images and weights")
    parser.add_argument(
        "--compile", choices=["default", "reduce-overhead", "max-autotune"], help="mode of torch.compile"
    )


def setting_of(arguments: argparse.Namespace) -> Setting:
    """Return the `Setting` of parsed options."""
    device = torch.device(arguments.device)
    return Setting(device, arguments.autocast, arguments.channels_last, arguments.compile)


class Contestant:
    """Network with an optimizer, whose training steps and evaluations are timed.

    Args:
        make: factory of the network.
        setting: device, precision, layout and compilation.
    """

    def __init__(self, make: Callable[[], nn.Module], setting: Setting) -> None:
        self.setting = setting
        self.model = setting.model(make)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self._training = setting.compiled(self.model, training=True)
        self._evaluation = setting.compiled(self.model, training=False)

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


def measure(
    variants: Mapping[str, Callable[[], nn.Module]], batch: int, rounds: int, setting: Setting
) -> dict[str, dict[str, float]]:
    """Return the median seconds for each network and kind, after a round that warms up."""
    images = setting.images(batch)
    labels = torch.randint(100, (batch,), device=setting.device)
    contestants = {name: Contestant(make, setting) for name, make in variants.items()}
    medians: dict[str, dict[str, float]] = {name: {} for name in variants}
    for kind, method in zip(KINDS, ("training_step", "evaluation"), strict=True):
        for each in contestants.values():
            each.model.train(kind == KINDS[0])
        turns = {name: partial(getattr(each, method), images, labels) for name, each in contestants.items()}
        for name, value in medians_in_turn(turns, setting.device, rounds=rounds).items():
            medians[name][kind] = value
    return medians


def count(names: Sequence[str], batch: int, setting: Setting) -> dict[str, dict[str, ContractionCounter]]:
    """Count the convolutions and matrix products for each network and kind, without compilation."""
    setting = replace(setting, compile=None)
    images = setting.images(batch)
    labels = torch.randint(100, (batch,), device=setting.device)
    counts: dict[str, dict[str, ContractionCounter]] = {}
    for name in names:
        each = Contestant(VARIANTS[name], setting)
        counts[name] = {}
        for kind, method in zip(KINDS, (each.training_step, each.evaluation), strict=True):
            each.model.train(kind == KINDS[0])
            method(images, labels)  # fills the caches, which must not count
            with ContractionCounter() as counter:
                method(images, labels)
            counts[name][kind] = counter
    return counts


Figures = dict[int, dict[str, dict[str, float]]]
"""Batch size -> network -> kind -> number."""


def of_counts(counts: dict[int, dict[str, dict[str, ContractionCounter]]], figure: Callable[..., float]) -> Figures:
    """Reduce each count to one figure, such as its number of operations."""
    return {
        batch: {name: {kind: figure(counter) for kind, counter in kinds.items()} for name, kinds in networks.items()}
        for batch, networks in counts.items()
    }


def report(results: Figures, title: str, others: Figures | None = None) -> Table:
    """Return a table of multiples of the plain network, or of ratios to other figures of the same network."""
    table = Table("network", *(f"{kind}, batch {batch}" for batch in results for kind in KINDS), title=title)
    for name in next(iter(results.values())):
        quotients = [
            figures[name][kind] / (figures[PLAIN] if others is None else others[batch][name])[kind]
            for batch, figures in results.items()
            for kind in KINDS
        ]
        table.add_row(name, *(f"{quotient:.2f}" for quotient in quotients))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds after the warm-up")
    others = [name for name in VARIANTS if name != PLAIN]
    parser.add_argument("--only", nargs="+", choices=others, default=others, help="networks; default: all")
    add_setting(parser)
    parser.add_argument("--output", type=Path, help="JSON file for medians, counts and floors")
    arguments = parser.parse_args()

    setting = setting_of(arguments)
    device = setting.device
    names = [PLAIN, *arguments.only]
    variants = {name: VARIANTS[name] for name in names}
    results: Figures = {batch: measure(variants, batch, arguments.rounds, setting) for batch in arguments.batch}
    counts = {batch: count(names, batch, setting) for batch in arguments.batch}
    peaks = peaks_of(device, torch.bfloat16 if setting.autocast else torch.float32)
    operations = of_counts(counts, lambda counter: counter.operations)
    floors = of_counts(counts, lambda counter: counter.floor(peaks))
    about = setting.facts() | {"rounds": arguments.rounds}
    console = Console()
    console.print(report(results, "time, multiples of the plain network"))
    console.print(report(operations, "arithmetic, multiples of the plain network"))
    console.print(report(floors, "floor of convolutions and matrix products, share of the measured time", results))
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
        write_json(arguments.output, content)


if __name__ == "__main__":
    main()
