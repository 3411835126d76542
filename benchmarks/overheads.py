"""Time that users wait for other things than training steps, as multiples of such a step of the same network.

    python -m benchmarks.overheads --output benchmarks/overheads_cpu.json
    python -m benchmarks.overheads --quickstart        (also trains the quickstart: a minute more)

The networks are LipConvNet-15 with 32 initial channels on 32 x 32 images, and LipConvNet-5 with 16. The first table has

- evaluations of a batch: a repeated one, the first one after a training step, and the first one after another call of
  ``model.eval()``;
- the first batch of a validation, which estimates scales and the Lipschitz constant instead of proving a bound;
- proofs: the Lipschitz bound K and the rounding bound E (docs/notation.md) of the network in float64, without caches;
- certification: a batch in float64 with explicit products, and its images per second.

The second table has the seconds of start-up: imports, ``train.py --help``, and with ``--quickstart`` the time that the
quickstart spends outside training and certification.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import earlier, machine, seconds, write_json
from benchmarks.lipconvnet import Contestant, Setting
from benchmarks.rows import ROOT
from lipnet.certify import explicit_arithmetic, lipschitz_bound, logit_bounds, rounding_bounds
from lipnet.layers import GSSOC, SOC, MaxMinPermuted
from lipnet.layers.estimated import estimated_scales
from lipnet.models import LipConvNet

STEP = "training step"
Figures = dict[str, float]


def network(depth: int, channels: int, conv: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
    """Return the factory of a LipConvNet."""
    return partial(LipConvNet, depth=depth, initial_channels=channels, conv=conv, activation=MaxMinPermuted)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "LipConvNet-15, (4,-)": network(15, 32, partial(GSSOC, groups=(4, None))),
    "LipConvNet-15, SOC": network(15, 32, SOC),
    "LipConvNet-5, 16 channels, (4,1)": network(5, 16, partial(GSSOC, groups=(4, 1))),
}


def measure(make: Callable[[], nn.Module], batch: int, rounds: int, device: torch.device) -> Figures:
    """Return the median seconds of a training step and of the evaluations, after a round that warms up."""
    each = Contestant(make, Setting(device))
    images, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    evaluation = partial(each.evaluation, images, labels)
    measured: dict[str, list[float]] = {}

    def note(name: str, function: Callable[[], object]) -> None:
        measured.setdefault(name, []).append(seconds(function, device))

    for _ in range(rounds + 1):
        each.model.train()
        note(STEP, partial(each.training_step, images, labels))
        each.model.eval()
        note("first batch of a validation", partial(validate, each, images, labels))
        note("first evaluation after a step", evaluation)
        note("evaluation", evaluation)
        each.model.eval()
        note("evaluation after another eval()", evaluation)
    return {name: median(values[1:]) for name, values in measured.items()}


def validate(each: Contestant, images: Tensor, labels: Tensor) -> None:
    """Compute what a validation of `CertifiedClassifier` needs for its first batch."""
    logit_bounds(each.model, estimate=True)
    with estimated_scales(each.model):
        each.evaluation(images, labels)


def measure_certification(make: Callable[[], nn.Module], batch: int, rounds: int, device: torch.device) -> Figures:
    """Return the seconds of the proofs and of a certified batch in float64, and its images per second."""
    model = Setting(device).model(make).double().eval()
    images = torch.rand(batch, 3, 32, 32, device=device, dtype=torch.float64)
    figures = {
        "proof of K": seconds(partial(lipschitz_bound, model), device),
        "proof of E": seconds(partial(rounding_bounds, model, (3, 32, 32)), device),
    }
    with torch.no_grad(), explicit_arithmetic(model):
        times = [seconds(partial(model, images), device) for _ in range(rounds + 1)]
    figures["certification of a batch"] = median(times[1:])
    return figures | {"certified images per second": batch / median(times[1:])}


def start_up() -> Figures:
    """Return the seconds of imports and of ``--help``, each the faster of two new interpreters."""
    commands = {
        "import torch": ["-c", "import torch"],
        "import lipnet.layers": ["-c", "import lipnet.layers"],
        "import lipnet.certify": ["-c", "import lipnet.certify"],
        "import lightning": ["-c", "import lightning"],
        "train.py --help": ["train.py", "--help"],
        "certify.py --help": ["certify.py", "--help"],
    }
    return {name: min(_run_seconds(command) for _ in range(2)) for name, command in commands.items()}


def quickstart(overrides: Sequence[str] = ()) -> Figures:
    """Train and certify the quickstart; return its seconds: in all, of both parts, and outside them."""
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = ["train.py", "experiment=quickstart", f"hydra.run.dir={run}", *overrides]
        total = _run_seconds(command)
        training = json.loads((run / "run.json").read_text())["seconds"]
        certification = json.loads((run / "summary.json").read_text())["wall_seconds"]
    return {
        "quickstart": total,
        "quickstart, training": training,
        "quickstart, certification": certification,
        "quickstart, outside both": total - training - certification,
    }


def _run_seconds(arguments: Sequence[str]) -> float:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": paths})
    return time.perf_counter() - start


def ratio_table(results: dict[str, Figures]) -> Table:
    """Return a table of multiples of each network's training step, and of images per second."""
    table = Table("", *results, title="multiples of a training step")
    for name in dict.fromkeys(name for figures in results.values() for name in figures):
        if name.endswith("per second"):
            table.add_row(name, *(f"{figures[name]:.1f}" for figures in results.values()))
        else:
            table.add_row(name, *(f"{figures[name] / figures[STEP]:.2f}" for figures in results.values()))
    table.add_row("seconds of a training step", *(f"{figures[STEP]:.3f}" for figures in results.values()))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds after the warm-up")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quickstart", action="store_true", help="also run the quickstart")
    parser.add_argument("--output", type=Path, help="JSON file; other networks stay in it")
    chosen = parser.parse_args(arguments)
    if min(chosen.rounds, chosen.batch) < 1:
        parser.error(f"rounds and batch must be at least 1, got {chosen.rounds} and {chosen.batch}")

    device = torch.device(chosen.device)
    about = machine(device) | {"batch": chosen.batch, "rounds": chosen.rounds}
    kept = earlier(chosen.output, about)
    results = {
        name: measure(NETWORKS[name], chosen.batch, chosen.rounds, device)
        | measure_certification(NETWORKS[name], chosen.batch, chosen.rounds, device)
        for name in chosen.only
    }
    waiting = start_up() | (quickstart() if chosen.quickstart else {})
    console = Console()
    console.print(ratio_table(results))
    table = Table("start-up", "seconds")
    for name, value in waiting.items():
        table.add_row(name, f"{value:.1f}")
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if chosen.output is not None:
        seconds_of, waiting_of = kept.get("seconds", {}) | results, kept.get("start_up", {}) | waiting
        write_json(chosen.output, {"machine": about, "seconds": seconds_of, "start_up": waiting_of})


if __name__ == "__main__":
    main()
