"""Pictures of GS-matrices as graphs, of the ranks of their blocks, and of their shuffles.

``python -m tools.gs_graphs OUT_DIR`` writes ``gs_graph.png``, ``gs_ranks.png`` and ``gs_shuffles.png``.
"""

import argparse
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lipnet.files import atomic_write
from lipnet.functional import shuffle_permutation
from lipnet.structured import GSMatrix, HigherOrderGS, butterfly, group_and_shuffle

_TEXT, _LINES = "#222222", "#c8c8c8"
# Half of the width of a node.
_HALF = 0.14
_COLOURS = ["#1f5a96", "#2a9d8f", "#e0a526", "#d9603b"]


def graph_figure(blocks: int = 4, block_size: int = 4) -> Figure:
    """Draw group-and-shuffle and butterfly products as graphs: blocks are nodes, entries passed on are edges."""
    factor = torch.ones(blocks, block_size, block_size)
    matrices = {
        "Group and shuffle: 2 factors": group_and_shuffle([factor] * 2),
        "Butterfly: 3 factors": butterfly([factor] * 3),
    }
    figure = _figure(8.4, 3.6)
    for axis, (name, A) in zip(figure.subplots(1, 2, width_ratios=[1.4, 2]), matrices.items(), strict=True):
        draw_graph(axis, A)
        axis.set_title(name, fontsize=10, color=_TEXT)
    return figure


def draw_graph(axis: Axes, A: HigherOrderGS) -> None:
    """Draw a column of nodes for each factor, B_1 on the left; edges have the colour of the block they leave."""
    for level in range(1, len(A.blocks)):
        source, target = A.blocks[level - 1], A.blocks[level]
        places = A.permutations[level]
        size = source.shape[0] * source.shape[1]
        for entry, place in enumerate(range(size) if places is None else places.tolist()):
            block = entry // source.shape[1]
            start = (entry + 0.5) / source.shape[1]
            axis.plot(
                [level - 1 + _HALF, level - _HALF],
                [start, (place + 0.5) / target.shape[2]],
                color=_COLOURS[block % len(_COLOURS)],
                linewidth=1.1,
            )
    for level, factor in enumerate(A.blocks):
        for block in range(len(factor)):
            colour = _COLOURS[block % len(_COLOURS)]
            axis.fill(
                [level - _HALF, level + _HALF, level + _HALF, level - _HALF],
                [block + 0.06] * 2 + [block + 0.94] * 2,
                color=colour,
            )
        axis.text(level, len(factor) + 0.25, f"$B_{{{level + 1}}}$", ha="center", fontsize=9, color=_TEXT)
    axis.set(xlim=(-0.3, len(A.blocks) - 0.7), ylim=(len(A.blocks[0]) + 0.45, -0.05))
    axis.set_axis_off()


def ranks_figure() -> Figure:
    """Draw the ranks of the blocks of three 12 x 12 GS-matrices with inner sizes 12, 12 and 24."""
    shapes = {
        "4 blocks 3 x 3, 2 of 6 x 6": ((4, 3, 3), (2, 6, 6), 4),
        "3 blocks 4 x 4, 3 of 4 x 4": ((3, 4, 4), (3, 4, 4), 3),
        "3 blocks 4 x 8, 3 of 8 x 4": ((3, 4, 8), (3, 8, 4), 3),
    }
    figure = _figure(8.4, 3.6)
    for axis, (name, (left, right, groups)) in zip(figure.subplots(1, 3), shapes.items(), strict=True):
        inner = shuffle_permutation(left[0] * left[2], groups)
        ranks = GSMatrix(torch.ones(left), torch.ones(right), inner).block_ranks()
        axis.imshow(ranks.numpy(), cmap="Blues", vmin=0, vmax=5, extent=(0, right[0] * right[2], left[0] * left[1], 0))
        for i, row in enumerate(ranks.tolist()):
            for j, rank in enumerate(row):
                place = ((j + 0.5) * right[2], (i + 0.5) * left[1])
                axis.text(
                    *place, f"rank {rank}", ha="center", va="center", fontsize=8.5, color="white" if rank > 2 else _TEXT
                )
        axis.hlines([i * left[1] for i in range(1, left[0])], 0, right[0] * right[2], color="white", linewidth=2)
        axis.vlines([j * right[2] for j in range(1, right[0])], 0, left[0] * left[1], color="white", linewidth=2)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"L: {name.split(', ')[0]}\nR: {name.split(', ')[1]}", fontsize=9, color=_TEXT)
        axis.spines[:].set(color=_LINES)
    return figure


def shuffles_figure(size: int = 12, groups: tuple[int, ...] = (2, 3, 4, 6)) -> Figure:
    """Draw the shuffles P_(k, n) for several k: a line from every entry to its place, coloured by its residue mod k."""
    figure = _figure(8.4, 3.6)
    for axis, count in zip(figure.subplots(1, len(groups)), groups, strict=True):
        for entry, place in enumerate(shuffle_permutation(size, count).tolist()):
            colour = colormaps["viridis"]((entry % count) / count)
            axis.plot([0, 1], [entry, place], "o-", color=colour, linewidth=1.3, markersize=5)
        axis.set(ylim=(size - 0.5, -0.5), xlim=(-0.1, 1.1))
        axis.set_axis_off()
        axis.set_title(f"$P_{{({count},\\,{size})}}$", fontsize=10, color=_TEXT)
    return figure


def write_graphs(folder: Path) -> list[Path]:
    """Write the three pictures into a folder, each whole or not at all, and return their paths."""
    figures = {"gs_graph.png": graph_figure(), "gs_ranks.png": ranks_figure(), "gs_shuffles.png": shuffles_figure()}
    for name, figure in figures.items():
        with atomic_write(folder / name) as file:
            figure.savefig(file, format="png", dpi=150)
    return [folder / name for name in figures]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw GS-matrices as graphs, their block ranks and their shuffles.")
    parser.add_argument("folder", metavar="OUT_DIR", type=Path)
    for path in write_graphs(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
