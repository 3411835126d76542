"""Selection of slow cases, report of planted defects, and a LipConvNet small enough for 8 x 8 digits."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import gcd
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import digits_network
from lipnet.data import DigitsDataModule
from lipnet.models import build_model, save_checkpoint

DATASET = {"name": "digits", "seed": 0, "validation_fraction": 0.1}
CONFIG = digits_network.CONFIG | {"depth": 3, "initial_channels": 8}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark slow, for tests with ``@pytest.mark.cover(n)``, the cases that add no combination of n parameter values."""
    functions: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("cover") is not None:
            functions[item.nodeid.partition("[")[0]].append(item)
    for cases in functions.values():
        marker = cases[0].get_closest_marker("cover")
        assert marker is not None
        # Step by about the golden ratio, because neighbouring cases differ in one parameter only and cover less.
        step = next(n for n in range(int(0.618 * len(cases)) + 1, 0, -1) if gcd(n, len(cases)) == 1)
        covered: set[tuple[tuple[str, str], ...]] = set()
        for number in range(len(cases)):
            case = cases[number * step % len(cases)]
            values = sorted((name, repr(value)) for name, value in case.callspec.params.items())
            new = set(combinations(values, min(marker.args[0], len(values)))) - covered
            covered |= new
            if not new:
                case.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the planted defects with the tests that detected them (tests/mutation)."""
    lines = []
    for outcome, verdict in (("passed", "detected by"), ("failed", "NOT DETECTED, only by")):
        for report in terminalreporter.getreports(outcome):
            properties = getattr(report, "user_properties", [])
            names = [value for key, value in properties if key == "defect"]
            catchers = [value.removeprefix("tests/") for key, value in properties if key == "catcher"]
            if names and report.when == "call":
                lines.append(f"{names[0]}\n    {verdict} {', '.join(catchers)}")
    if lines:
        terminalreporter.section(f"{len(lines)} planted defects")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def digits_dataset() -> dict[str, Any]:
    """The description of the digits in a checkpoint; do not modify."""
    return copy.deepcopy(DATASET)


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """The plain configuration of a GS-SOC LipConvNet-3 for the digits; do not modify."""
    return copy.deepcopy(CONFIG)


@pytest.fixture
def tiny_model(tiny_config: dict[str, Any]) -> nn.Module:
    """The network of `tiny_config` with seeded weights, float32, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(tiny_config).eval()


@pytest.fixture
def tiny_checkpoint(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> Path:
    """A checkpoint of `tiny_model`."""
    path = tmp_path / "tiny.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, digits_dataset)
    return path


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """The 359 test images (359, 1, 8, 8), float64, and their labels (359,)."""
    images, labels = digits_network.stacked(DigitsDataModule().evaluation_dataset("test"))
    return images.double(), labels


@pytest.fixture(scope="session")
def _trained_weights() -> dict[str, Tensor]:
    """Weights of the tiny network after 80 steps of SGD, with about 90 % of the test images classified correctly."""
    return digits_network.trained_network(steps=80, depth=3, initial_channels=8).state_dict()


@pytest.fixture
def trained_model(_trained_weights: dict[str, Tensor], tiny_model: nn.Module) -> nn.Module:
    """The tiny network after a short training, float64, in evaluation mode."""
    tiny_model.double().load_state_dict(_trained_weights)
    return tiny_model
