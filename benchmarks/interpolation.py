"""Accuracy of an adapted network against the strength of its adapter, between base and adapted network.

    python -m benchmarks.interpolation --output results/structured --picture docs/images

The base learns scikit-learn's upright digits; each adapter learns the digits turned by a quarter.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import write_json
from lipnet.files import atomic_write
from lipnet.structured.adapters import AdapterConfig, BOFTConfig, GSOFTConfig, attach, scale_adapter

ADAPTERS: dict[str, AdapterConfig] = {"GSOFT, b = 8": GSOFTConfig(8), "BOFT, b = 8, 2 factors": BOFTConfig(8)}
STRENGTHS = [round(-0.25 + 0.125 * step, 3) for step in range(13)]


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return upright and turned digits (1797, 64), their labels, and a mask of the test images, a quarter."""
    raw = load_digits()
    images, labels = torch.from_numpy(raw.images).float() / 16, torch.from_numpy(raw.target)
    test = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)) < len(images) // 4
    return images.flatten(1), images.rot90(dims=(1, 2)).flatten(1), labels, test


def fit(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """Train the parameters that require a gradient by Adam, with all images in each step."""
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def measure(steps: int = 300) -> list[dict[str, Any]]:
    """Return a row for each adapter and strength: accuracy on upright and on turned test digits."""
    upright, turned, labels, test = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    fit(base, upright[~test], labels[~test], steps)

    @torch.no_grad()
    def accuracies(model: nn.Module) -> dict[str, float]:
        shares = {"upright": upright, "turned": turned}
        return {
            name: float((model(images[test]).argmax(1) == labels[test]).double().mean())
            for name, images in shares.items()
        }

    rows = [{"adapter": "base", "strength": 0.0, **accuracies(base)}]
    for name, config in ADAPTERS.items():
        model = fit(attach(copy.deepcopy(base), config), turned[~test], labels[~test], steps)
        rows.append({"adapter": f"{name}, trained", "strength": 1.0, **accuracies(model)})
        for strength in STRENGTHS:
            rows.append({"adapter": name, "strength": strength, **accuracies(scale_adapter(model, strength))})
    return rows


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Draw both accuracies against the strength, a panel for each adapter."""
    figure = Figure(figsize=(7.6, 3.1), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(ADAPTERS), sharey=True), ADAPTERS, strict=True):
        here = [row for row in rows if row["adapter"] == name]
        for task, colour in (("upright", "#1f5a96"), ("turned", "#d9603b")):
            xs, ys = [row["strength"] for row in here], [100 * row[task] for row in here]
            axis.plot(xs, ys, "o-", color=colour, markersize=3.5, linewidth=1.6, label=f"{task} digits")
        for place, label in ((0, "base"), (1, "adapted")):
            axis.axvline(place, color="#aaaaaa", linewidth=0.8, linestyle=":")
            axis.text(place, 104, label, ha="center", fontsize=8, color="#555555")
        axis.set_title(name, fontsize=10, color="#222222", pad=14)
        axis.set_xlabel("strength t", fontsize=9)
        axis.set_ylim(0, 102)
        axis.grid(color="#e4e4e4", linewidth=0.6)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[:].set_visible(False)
    figure.axes[0].set_ylabel("test accuracy (%)", fontsize=9)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure accuracy against the strength of an adapter.")
    parser.add_argument("--output", type=Path, required=True, help="folder for interpolation.json")
    parser.add_argument("--picture", type=Path, required=True, help="folder for adapter_strength.png")
    arguments = parser.parse_args()
    rows = measure()
    write_json(arguments.output / "interpolation.json", {"rows": rows})
    with atomic_write(arguments.picture / "adapter_strength.png") as file:
        plot(rows).savefig(file, format="png")


if __name__ == "__main__":
    main()
