"""Time and orthogonality of lipnet beside the convolutions of other packages.

    python -m benchmarks.peers --batch 32 128 --output benchmarks/peers_cpu.json
    python -m benchmarks.peers --parts times --minutes 10 --output benchmarks/peers_cpu.json

The networks are LipConvNet-15 with 32 initial channels on 32 x 32 images. They differ in the convolutions alone
(`benchmarks.peer_layers`), apart from the plain network's head. Times are multiples of the plain network's, and all
networks take turns in the same run. `benchmarks.orthogonality` measures the singular values. Packages that are not
installed are left out. ``--only`` measures some networks and ``--parts`` one part; the output file keeps its other
entries.
"""

import argparse
import json
from collections.abc import Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.common import machine, medians_in_turn, write_json
from benchmarks.lipconvnet import PLAIN, VARIANTS, Contestant, Setting
from benchmarks.orthogonality import MODES, STRIDES, layer_figures, network_figures
from benchmarks.peer_layers import PEERS, Make, available, exportable, exported, versions

TRAINING, EVALUATION, EXPORTED = KINDS = ("training step", "evaluation", "evaluation, exported")
PARTS = ("times", "orthogonality")
Results = dict[str, dict[str, Any]]
# Wide enough for the cells of the Markdown tables.
_WIDTH = 130


def times(networks: Mapping[str, Make], batch: int, rounds: int, device: torch.device, budget: float = inf) -> Results:
    """Return the median seconds for each network and kind, after a warm-up round, and multiples of the plain network.

    Each kind has an equal share of ``budget`` seconds. It always has one measured round, and starts no other one after
    its share.
    """
    images, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    contestants = {name: Contestant(make, Setting(device)) for name, make in networks.items()}
    medians: dict[str, dict[str, float]] = {name: {} for name in networks}
    for kind in KINDS:
        if kind == EXPORTED:
            contestants = {n: each for n, each in contestants.items() if n == PLAIN or exportable(each.model)}
        turns = {}
        for name, each in contestants.items():
            each.model.train(kind == TRAINING)
            if kind == EXPORTED:
                exported(each.model)
            turns[name] = partial(each.training_step if kind == TRAINING else each.evaluation, images, labels)
        for name, value in medians_in_turn(turns, device, rounds=rounds, budget=budget / len(KINDS)).items():
            medians[name][kind] = value
    return {
        name: {
            "median_seconds": own,
            "multiples": {kind: value / medians[PLAIN][kind] for kind, value in own.items()},
        }
        for name, own in medians.items()
    }


def time_table(results: Results) -> Table:
    """Return a table of multiples of the plain network, with columns for each batch size."""
    batches = sorted({batch for entry in results.values() for batch in entry.get("times", {})}, key=int)
    table = Table(box=box.MARKDOWN, title="multiples of the plain network")
    table.add_column("network", no_wrap=True)
    for batch in batches:
        for kind in KINDS:
            table.add_column(f"{kind}, batch {batch}", justify="right")
    for name, entry in results.items():
        multiples = [entry.get("times", {}).get(batch, {}).get("multiples", {}) for batch in batches]
        table.add_row(name, *(f"{own[kind]:.2f}" if kind in own else "-" for own in multiples for kind in KINDS))
    return table


def orthogonality_table(results: Results) -> Table:
    """Return a table of the layers' extreme singular values and of the network's norm, in each mode."""
    columns = (f"{stride}, {end}" for stride in STRIDES for end in ("smallest", "largest"))
    table = Table(box=box.MARKDOWN, title="singular values after optimizer steps")
    table.add_column("network", no_wrap=True)
    for heading in ("mode", *columns, "network", "product"):
        table.add_column(heading, justify="right")
    for name, entry in results.items():
        for mode in MODES if "orthogonality" in entry else ():
            layers, network = entry["orthogonality"]["layers"][mode], entry["orthogonality"]["network"]
            values = [value for stride in STRIDES for value in layers[stride]] + [network[mode]]
            # The product of the layers' norms is measured in evaluation mode only.
            product = f"{network['product']:.4g}" if mode == MODES[1] else "-"
            table.add_row(name, mode, *(f"{value:.4g}" for value in values), product)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    others = [name for name in (*VARIANTS, *PEERS) if name != PLAIN]
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="none: only print the tables")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds after the warm-up")
    parser.add_argument("--minutes", type=float, default=inf, help="budget for the times of all batches")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps before singular values are measured")
    parser.add_argument("--only", nargs="+", choices=others, default=others, help="networks; default: all")
    parser.add_argument("--device", default="cpu", help="device for the times; singular values are measured on the CPU")
    parser.add_argument("--output", type=Path, help="JSON file; other networks and parts stay in it")
    arguments = parser.parse_args()
    if min(arguments.rounds, *arguments.batch) < 1:
        parser.error(f"rounds and batch must be at least 1, got {arguments.rounds} and {arguments.batch}")

    console = Console(width=max(_WIDTH, Console().width))
    device, output = torch.device(arguments.device), arguments.output
    networks = available([PLAIN, *arguments.only], console.print)
    results: Results = json.loads(output.read_text()) if output is not None and output.exists() else {}
    about = machine(device) | {"packages": versions(), "rounds": arguments.rounds}
    budget = 60 * arguments.minutes / len(arguments.batch)
    for batch in arguments.batch if "times" in arguments.parts else ():
        for name, measured in times(networks, batch, arguments.rounds, device, budget).items():
            results.setdefault(name, {}).setdefault("times", {})[str(batch)] = measured | {"machine": about}
        if output is not None:
            write_json(output, results)
    for name, make in networks.items() if "orthogonality" in arguments.parts else ():
        layers, network = layer_figures(make, arguments.steps), network_figures(make, arguments.steps, exported)
        figures = {"steps": arguments.steps, "packages": versions(), "layers": layers, "network": network}
        results.setdefault(name, {})["orthogonality"] = figures
        if output is not None:
            write_json(output, results)
    console.print(time_table(results), orthogonality_table(results))


if __name__ == "__main__":
    main()
