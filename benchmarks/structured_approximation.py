"""Error of the nearest structured matrix against its parameters, for random, near-low-rank and semidefinite matrices.

    python -m benchmarks.structured_approximation --output results/structured --picture docs/images

Low rank, Kronecker, circulant and Toeplitz matrices have closed-form projections. W(G, H) = sum circ(g_i)
skew-circ(h_i), of low displacement rank, has none: gradient descent gives an upper bound on its smallest error.

Source: the comparison of Sehanobish et al., NeurIPS 2024 (arXiv 2406.17740).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common import write_json
from lipnet.files import atomic_write
from lipnet.structured import project_circulant, project_kronecker, project_toeplitz
from lipnet.structured.circulant import circulant_product, skew_circulant_product

RANKS = (1, 2, 4, 8)
COLOURS = {
    "low rank": "#555555",
    "Kronecker": "#e0a526",
    "circulant": "#d9603b",
    "Toeplitz": "#2a9d8f",
    "W(G, H)": "#1f5a96",
}


def targets(size: int, repeats: int) -> dict[str, Tensor]:
    """Return (repeats, size, size) matrices of each kind."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(repeats, *shape, generator=generator, dtype=torch.float64)

    rank, A = size // 8, normal(size, size)
    low = normal(size, rank) @ normal(rank, size) / rank**0.5
    return {
        "random": normal(size, size),
        "near low rank": low + 0.1 * normal(size, size),
        "positive semidefinite": A @ A.mT / size,
    }


def relative_errors(matrices: Tensor, nearest: Tensor) -> list[float]:
    """Return the Frobenius norms of the differences as shares of the matrices' norms."""
    errors: list[float] = ((matrices - nearest).flatten(1).norm(dim=1) / matrices.flatten(1).norm(dim=1)).tolist()
    return errors


def closed_forms(matrices: Tensor) -> Iterator[tuple[str, int, list[float]]]:
    """Yield structure, number of parameters and errors of the nearest matrices (count, n, n)."""
    size = matrices.shape[-1]
    u, s, vh = torch.linalg.svd(matrices)
    for rank in RANKS:
        nearest = (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
        yield "low rank", 2 * size * rank, relative_errors(matrices, nearest)
    for rows in (divisor for divisor in (4, 8, 16, 32) if size % divisor == 0):
        for shape in {(rows, rows), (rows, size // rows)}:
            found = [project_kronecker(matrix, shape) for matrix in matrices]
            count = sum(value.numel() for value in found[0].parameters())
            dense = torch.stack([each.to_dense().detach() for each in found])
            yield "Kronecker", count, relative_errors(matrices, dense)
    for name, project in (("circulant", project_circulant), ("Toeplitz", project_toeplitz)):
        modules = [project(matrix) for matrix in matrices]
        count = sum(value.numel() for value in modules[0].parameters())
        yield name, count, relative_errors(matrices, torch.stack([each.to_dense().detach() for each in modules]))


def descend(matrices: Tensor, rank: int, steps: int) -> list[float]:
    """Return the errors of W(G, H) after Adam with a cosine schedule, for all matrices at once."""
    count, size, _ = matrices.shape
    generator = torch.Generator().manual_seed(rank)
    # W starts with entries about as large as those of its matrix.
    scale = (matrices.flatten(1).square().mean(dim=1) / rank) ** 0.25
    start = torch.randn(2, count, rank, size, generator=generator) * scale.float()[:, None, None] / size**0.25
    parameters = start.requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    identity, aims = torch.eye(size), matrices.float()
    for step in range(steps + 1):
        inner = skew_circulant_product(parameters[1][:, :, None], identity)
        nearest = circulant_product(parameters[0][:, :, None], inner).sum(dim=1).mT
        if step < steps:
            optimizer.zero_grad()
            ((aims - nearest).square().sum((1, 2)) / aims.square().sum((1, 2))).sum().backward()
            optimizer.step()
            schedule.step()
    return relative_errors(matrices, nearest.detach().double())


def measure(size: int = 64, repeats: int = 10, steps: int = 300) -> list[dict[str, Any]]:
    """Return a row for each kind of matrix, structure and number of parameters, with the error of every repeat."""
    rows: list[dict[str, Any]] = []
    kinds = targets(size, repeats)
    for kind, matrices in kinds.items():
        for name, count, errors in closed_forms(matrices):
            rows.append({"matrix": kind, "structure": name, "parameters": count, "errors": errors})
    together = torch.cat(list(kinds.values()))
    for rank in RANKS:
        errors = descend(together, rank, steps)
        for index, kind in enumerate(kinds):
            part = errors[index * repeats : (index + 1) * repeats]
            rows.append({"matrix": kind, "structure": "W(G, H)", "parameters": 2 * size * rank, "errors": part})
    return rows


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Draw mean and range of the errors against parameters, a panel for each kind of matrix."""
    kinds = list(dict.fromkeys(row["matrix"] for row in rows))
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for kind, axis in zip(kinds, figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], strict=True):
        for name, colour in COLOURS.items():
            here = [row for row in rows if (row["matrix"], row["structure"]) == (kind, name)]
            best = _lowest(here)
            xs, means = zip(
                *[(row["parameters"], sum(row["errors"]) / len(row["errors"])) for row in best], strict=True
            )
            axis.plot(
                xs,
                means,
                "o-" if len(xs) > 1 else "D",
                color=colour,
                markersize=4,
                zorder=4 - len(xs) / 2,
                linewidth=1.4,
                label=name,
            )
            low, high = ([pick(row["errors"]) for row in best] for pick in (min, max))
            axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_title(kind, fontsize=10, color="#222222")
        axis.set_xlabel("parameters", fontsize=9)
        axis.set_xticks([64, 128, 256, 512, 1024], ["64", "128", "256", "512", "1024"])
        axis.set_ylim(0, 1.03)
        axis.grid(color="#e4e4e4", linewidth=0.6)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[:].set_visible(False)
    figure.axes[0].set_ylabel("relative Frobenius error", fontsize=9)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _lowest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the row with the smallest mean error for each number of parameters, by ascending numbers."""
    best: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -sum(row["errors"])):
        best[row["parameters"]] = row
    return [best[count] for count in sorted(best)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare structured approximations at equal parameters.")
    parser.add_argument("--output", type=Path, required=True, help="folder for approximation.json")
    parser.add_argument("--picture", type=Path, required=True, help="folder for structured_approximation.png")
    arguments = parser.parse_args()
    rows = measure()
    write_json(arguments.output / "approximation.json", {"size": 64, "repeats": 10, "rows": rows})
    with atomic_write(arguments.picture / "structured_approximation.png") as file:
        plot(rows).savefig(file, format="png")


if __name__ == "__main__":
    main()
