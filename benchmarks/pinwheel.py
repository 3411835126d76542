"""Pinwheel: one structured layer on a frozen random embedding, with at most 128 parameters, and its decision regions.

    python -m benchmarks.pinwheel --output results/structured --picture docs/images

The network is relu(E x + e) with a frozen random E, a structured 64 x 64 layer, relu, and a trained linear head.

Source: the toy of Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
"""

import argparse
from collections.abc import Callable
from math import pi, sqrt
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_json
from lipnet.files import atomic_write
from lipnet.structured import AdditiveUpdate, Circulant, Kronecker, LowDisplacementRank, LowRank, Toeplitz

WIDTH, CLASSES = 64, 5
COLOURS = ["#1f5a96", "#2a9d8f", "#e9c46a", "#d9603b", "#8a5a9e"]
STRUCTURES: dict[str, Callable[[], AdditiveUpdate]] = {
    "low rank 1": lambda: LowRank(WIDTH, WIDTH, rank=1, alpha=1.0),
    "Kronecker": lambda: Kronecker(WIDTH, WIDTH),
    "circulant": lambda: Circulant(WIDTH, WIDTH),
    "Toeplitz": lambda: Toeplitz(WIDTH, WIDTH),
    "W(G, H), rank 1": lambda: LowDisplacementRank(WIDTH, WIDTH),
}


def pinwheel(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points (count, 2) on five twisted arms, and the number of each point's arm (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    points = torch.randn(count, 2, generator=generator) * torch.tensor([0.3, 0.07]) + torch.tensor([1.0, 0.0])
    angles = labels * 2 * pi / CLASSES + 0.9 * points[:, 0].exp()
    x, y = points.unbind(1)
    return torch.stack([angles.cos() * x - angles.sin() * y, angles.sin() * x + angles.cos() * y], dim=1), labels


class Network(nn.Module):
    """Frozen random embedding, structured layer and head."""

    def __init__(self, layer: AdditiveUpdate) -> None:
        super().__init__()
        self.embedding = nn.Linear(2, WIDTH).requires_grad_(False)
        self.layer, self.head = layer, nn.Linear(WIDTH, CLASSES)
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.embedding.bias)
        start = layer.get_parameter(layer.linear_parameter)  # at zero, nothing would reach the head
        nn.init.uniform_(start, -1 / sqrt(start.shape[-1]), 1 / sqrt(start.shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.layer.matmul(F.relu(self.embedding(x)))))
        return logits


def trained(name: str, seed: int, steps: int) -> tuple[Network, float]:
    """Return a network trained on 1000 points by Adam, and its accuracy on 2000 others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(STRUCTURES[name]())
    points, labels = pinwheel(1000, seed)
    optimizer = torch.optim.Adam([value for value in network.parameters() if value.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(points), labels).backward()
        optimizer.step()
    points, labels = pinwheel(2000, 1000 + seed)
    with torch.no_grad():
        return network, float((network(points).argmax(1) == labels).double().mean())


def plot(networks: dict[str, Network], rows: list[dict[str, Any]]) -> Figure:
    """Draw the decision regions of each network over the training points of seed 0."""
    figure = Figure(figsize=(2.0 * len(networks), 2.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    line = torch.linspace(-2.1, 2.1, 201)
    grid = torch.cartesian_prod(line, line)
    points, labels = pinwheel(1000, 0)
    for axis, (name, network), row in zip(figure.subplots(1, len(networks)), networks.items(), rows, strict=True):
        with torch.no_grad():
            regions = network(grid).argmax(1).view(201, 201).T
        colours = ListedColormap(COLOURS)
        extent = (-2.1, 2.1, -2.1, 2.1)
        axis.imshow(regions.numpy(), origin="lower", extent=extent, cmap=colours, vmin=0, vmax=CLASSES - 1, alpha=0.35)
        axis.scatter(*points[::2].T.numpy(), c=labels[::2].numpy(), cmap=colours, s=2, linewidths=0)
        accuracies = row["accuracies"]
        share = 100 * sum(accuracies) / len(accuracies)
        axis.set_title(f"{name}\n{row['parameters']} parameters, {share:.1f} %", fontsize=8.5, color="#222222")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set(color="#c8c8c8")
    return figure


def measure(seeds: int = 5, steps: int = 500) -> tuple[dict[str, Network], list[dict[str, Any]]]:
    """Return the networks of seed 0 by structure, and a row for each with the accuracies of all seeds."""
    networks, rows = {}, []
    for name in STRUCTURES:
        runs = [trained(name, seed, steps) for seed in range(seeds)]
        networks[name] = runs[0][0]
        count = sum(value.numel() for value in networks[name].layer.parameters())
        rows.append({"structure": name, "parameters": count, "accuracies": [accuracy for _, accuracy in runs]})
    return networks, rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one structured layer on the pinwheel.")
    parser.add_argument("--output", type=Path, required=True, help="folder for pinwheel.json")
    parser.add_argument("--picture", type=Path, required=True, help="folder for pinwheel.png")
    arguments = parser.parse_args()
    networks, rows = measure()
    write_json(arguments.output / "pinwheel.json", {"rows": rows})
    with atomic_write(arguments.picture / "pinwheel.png") as file:
        plot(networks, rows).savefig(file, format="png")


if __name__ == "__main__":
    main()
