"""Rounding errors of LipConvNet-15: the bound E (see docs/notation.md), its cost in radius, and measured deviations.

    python -m benchmarks.rounding

The large networks have random weights, since the bound hardly depends on them. A small one is trained on the digits.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.digits_network import stacked, trained_network
from benchmarks.reliability import write_figures
from lipnet.certify import Evidence, explicit_arithmetic
from lipnet.data import DigitsDataModule
from lipnet.data.spec import CIFAR100_SPEC
from lipnet.layers import GSSOC, SOC, MaxMin, MaxMinPermuted
from lipnet.models import LipConvNet

TITLE = "Rounding: the proved bound E and measured distances"
RADIUS = 36 / 255
_STEPS = 80


class Case(NamedTuple):
    """Named network, with images (B, C, H, W) for it."""

    name: str
    make: Callable[[], tuple[nn.Module, Tensor]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="number of images for the networks of CIFAR's size")
    parser.add_argument("--repeats", type=int, default=2, help="repetitions of each timing; the fastest counts")
    options = parser.parse_args(arguments)
    # Threads that wait for each other would count as processor time.
    torch.set_num_threads(1)
    rows: list[tuple[str, str]] = []
    for case in cases(options.images):
        torch.manual_seed(0)
        rows += measure(case, options.repeats)
        print(*(f"{what}: {seen}" for what, seen in rows[-5:]), sep="\n", flush=True)
        # Write after each network, so that an interruption loses only the next ones.
        write_figures("rounding", TITLE, 10, rows)


def measure(case: Case, repeats: int = 3) -> list[tuple[str, str]]:
    """Return the rows of a network: E, its cost in radius, measured distances, and the ratio of processor times."""
    model, images = case.make()
    model = model.double().eval().requires_grad_(False)
    evidence = Evidence(model, tuple(images.shape[1:]))
    rounding = evidence.summary(images)["rounding"]
    measured = rounding["measured"]
    ratio = _time_ratio(model, images, repeats)
    return [
        (f"{case.name}: bound E on the rounding of the logits in float64", f"{rounding['logits']:.1e}"),
        (
            f"{case.name}: cost of E in radius; the same as a fraction of 36/255",
            f"{rounding['radius']:.1e}, {rounding['radius'] / RADIUS:.1e}",
        ),
        (
            f"{case.name}: deployed in float64: largest distance from the certified logits on "
            f"{measured['images']} images",
            f"{measured['float64']:.1e}",
        ),
        (
            f"{case.name}: deployed in float32: largest distance from the certified logits, changed predictions",
            f"{measured['float32']:.1e}, {measured['float32_predictions']}",
        ),
        (f"{case.name}: processor time of certified logits divided by that of deployed logits", f"{ratio:.2f}"),
    ]


def _time_ratio(model: nn.Module, images: Tensor, repeats: int) -> float:
    """Return the processor time of certified logits over that of deployed ones, each the fastest of its turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        contexts: tuple[AbstractContextManager[None], ...] = (nullcontext(), explicit_arithmetic(model))
        for times, context in zip(seconds, contexts, strict=True):
            with context:
                start = time.process_time()
                model(images)
                times.append(time.process_time() - start)
    deployed, certified = (min(times[1:]) for times in seconds)
    return certified / deployed


def cases(images: int) -> list[Case]:
    """Return the networks, with ``images`` random images for each one of CIFAR's size."""
    circular = partial(SOC, padding_mode="circular")
    return [
        Case("LipConvNet-3 GS-SOC (4, -), trained on the digits", _trained),
        Case("LipConvNet-15 GS-SOC (4, -)", partial(_large, partial(GSSOC, groups=(4, None)), MaxMinPermuted, images)),
        Case("LipConvNet-15 SOC", partial(_large, SOC, MaxMin, images)),
        Case("LipConvNet-5 SOC, circular padding", partial(_large, circular, MaxMin, images, depth=5)),
    ]


def _large(
    conv: Callable[..., nn.Module], activation: type[nn.Module], images: int, depth: int = 15
) -> tuple[nn.Module, Tensor]:
    spec = CIFAR100_SPEC
    model = LipConvNet(100, depth=depth, conv=conv, activation=activation, mean=spec.mean, std=spec.std)
    return model, torch.rand(images, 3, 32, 32)


def _trained() -> tuple[nn.Module, Tensor]:
    images, _ = stacked(DigitsDataModule(augment=False).evaluation_dataset("test"))
    return trained_network(steps=_STEPS, depth=3, initial_channels=8), images


if __name__ == "__main__":
    main()
