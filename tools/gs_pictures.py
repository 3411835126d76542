"""Pictures of GS-matrices for the documentation: their factors, and the density of their products.

``python -m tools.gs_pictures OUT_DIR`` writes ``gs_structure.png`` and ``gs_density.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lipnet.files import atomic_write
from lipnet.structured import HigherOrderGS, butterfly, factors_needed, group_and_shuffle

# Colours of a factor's blocks, from the first to the last.
_COLOURS = LinearSegmentedColormap.from_list("blocks", ["#1f5a96", "#2a9d8f", "#e9c46a", "#d9603b"])
_TEXT = "#222222"
_GREY = "#555555"
_LINES = "#c8c8c8"

# Inches.
_WIDTH = 8.4
_GAP = 0.14
_EQUALS = 0.36
_MARGIN = 0.1
_HEADING = 0.28
_LABEL_LINE = 0.17
_BETWEEN_ROWS = 0.22
# Lines separate the entries of panels up to this many rows and columns.
_LINED = 24

Colours = NDArray[np.float64]


@dataclass(frozen=True)
class _Panel:
    """One picture in a row.

    Attributes:
        colours: colours of the entries (rows, columns, 3).
        label: text below.
        dots: row of the dot in each column (columns,), or None.
        equals: put an equals sign before it.
    """

    colours: Colours
    label: str
    dots: Tensor | None = None
    equals: bool = False

    @property
    def gap(self) -> float:
        return _EQUALS if self.equals else _GAP


def plot_factors(matrices: Mapping[str, HigherOrderGS]) -> Figure:
    """Draw a row for each named matrix A = P_{m+1} B_m P_m ... B_1 P_1: its factors and, after '=', their product.

    Each block of a factor has its own colour, and a permutation has dots at its ones; identities are left out. In the
    product, an entry that can be non-zero has the colour of the block of B_1 that its input enters.

    Returns:
        A figure made without pyplot; save it with ``figure.savefig``.

    Raises:
        ValueError: if there are no matrices.
    """
    rows = {}
    for name, A in matrices.items():
        heading = f"{name}: {_factors(len(A.blocks))}, {A.num_parameters} parameters, {_share(A)} non-zero"
        rows[heading] = [*_factor_panels(A), _Panel(_product_colours(A), "$A$", equals=True)]
    return _rows_of_panels(rows)


def plot_density(products: Mapping[str, Sequence[HigherOrderGS]]) -> Figure:
    """Draw the entries that can be non-zero for named sequences of matrices, a row for each name.

    An entry has the colour of the block of B_1 that its input enters.

    Returns:
        A figure made without pyplot; save it with ``figure.savefig``.

    Raises:
        ValueError: if there are no sequences, or one is empty.
    """
    rows = {}
    for name, matrices in products.items():
        rows[name] = [_Panel(_product_colours(A), f"{_factors(len(A.blocks))}\n{_share(A)}") for A in matrices]
    return _rows_of_panels(rows)


def structure_figure(blocks: int = 4, block_size: int = 4) -> Figure:
    """Draw the factors of a group-and-shuffle and a butterfly product, as few as each needs to be dense."""
    factor = torch.ones(blocks, block_size, block_size)
    return plot_factors(
        {
            "Group and shuffle": group_and_shuffle([factor] * factors_needed(block_size, blocks)),
            "Butterfly": butterfly([factor] * factors_needed(block_size, blocks, butterfly=True)),
        }
    )


def density_figure(blocks: int = 16, block_size: int = 4) -> Figure:
    """Draw group-and-shuffle and butterfly products of one, two, ... factors, until they are dense."""
    factor = torch.ones(blocks, block_size, block_size)
    size = f"{blocks * block_size} x {blocks * block_size} with blocks of {block_size} x {block_size}"
    what = f"{size}: entries that can be non-zero"
    shuffles = range(1, 1 + factors_needed(block_size, blocks))
    levels = range(1, 1 + factors_needed(block_size, blocks, butterfly=True))
    return plot_density(
        {
            f"Group and shuffle, {what}": [group_and_shuffle([factor] * count) for count in shuffles],
            f"Butterfly, {what}": [butterfly([factor] * count) for count in levels],
        }
    )


def write_pictures(folder: Path) -> list[Path]:
    """Write ``gs_structure.png`` and ``gs_density.png`` into a folder, each whole or not at all; return their paths."""
    figures = {"gs_structure.png": structure_figure(), "gs_density.png": density_figure()}
    for name, figure in figures.items():
        with atomic_write(folder / name) as file:
            figure.savefig(file, format="png", dpi=150)
    return [folder / name for name in figures]


def _factors(count: int) -> str:
    return f"{count} factor" if count == 1 else f"{count} factors"


def _share(A: HigherOrderGS) -> str:
    """Return the share of entries that can be non-zero, in per cent."""
    return f"{100 * A.support().double().mean().item():.4g} %"


def _factor_panels(A: HigherOrderGS) -> list[_Panel]:
    """Return the panels of P_{m+1}, B_m, ..., B_1, P_1 in this order, without identities."""
    panels = []
    for number, (factor, places) in enumerate(zip([*A.blocks, None], A.permutations, strict=True), start=1):
        if places is not None and not torch.equal(places, torch.arange(len(places), device=places.device)):
            white = np.ones((len(places), len(places), 3))
            panels.append(_Panel(white, f"$P_{{{number}}}$", dots=places.cpu()))
        if factor is not None:
            panels.append(_Panel(_block_colours(factor), f"$B_{{{number}}}$"))
    return panels[::-1]


def _block_colours(factor: Tensor) -> Colours:
    """Return the colours of a block-diagonal matrix: one for each block, white elsewhere."""
    numbers = torch.arange(1.0, 1.0 + len(factor)).view(-1, 1, 1).expand(factor.shape)
    entries = HigherOrderGS([numbers], [None, None]).to_dense().int().numpy()
    colours: Colours = np.concatenate([np.ones((1, 3)), _palette(len(factor))])[entries]
    return colours


def _product_colours(A: HigherOrderGS) -> Colours:
    """Return the colours of A: of the block of B_1 that the input enters where A can be non-zero, white elsewhere."""
    count, _, columns = A.blocks[0].shape
    places = torch.arange(A.shape[1]) if A.permutations[0] is None else A.permutations[0].cpu()
    by_input = _palette(count)[(places // columns).numpy()]
    return np.where(A.support().cpu().numpy()[:, :, None], by_input, 1.0)


def _palette(count: int) -> Colours:
    return np.asarray(_COLOURS(np.linspace(0, 1, count))[:, :3], dtype=np.float64)


def _rows_of_panels(rows: Mapping[str, Sequence[_Panel]]) -> Figure:
    """Draw panels at one scale, with a heading above each row and labels below the panels."""
    if not rows or not all(rows.values()):
        counts = {name: len(panels) for name, panels in rows.items()}
        raise ValueError(f"every row needs a matrix to draw, got {counts}")
    entry = min(_entry_size(panels) for panels in rows.values())
    everything = [panel for panels in rows.values() for panel in panels]
    panel_height = entry * max(len(panel.colours) for panel in everything)
    labels = _LABEL_LINE * (1 + max(panel.label.count("\n") for panel in everything))
    step = _HEADING + panel_height + labels + _BETWEEN_ROWS
    height = 2 * _MARGIN + len(rows) * step - _BETWEEN_ROWS
    figure = Figure(figsize=(_WIDTH, height), dpi=150)
    FigureCanvasAgg(figure)
    for number, (heading, panels) in enumerate(rows.items()):
        top = height - _MARGIN - number * step
        figure.text(_MARGIN / _WIDTH, top / height, heading, fontsize=10, color=_TEXT, va="top")
        _draw_row(figure, panels, top - _HEADING - panel_height / 2, entry)
    return figure


def _entry_size(panels: Sequence[_Panel]) -> float:
    """Return the side of an entry, in inches, for which the row fills the width of the figure."""
    gaps = sum(panel.gap for panel in panels[1:])
    columns: int = sum(panel.colours.shape[1] for panel in panels)
    return (_WIDTH - 2 * _MARGIN - gaps) / columns


def _draw_row(figure: Figure, panels: Sequence[_Panel], middle: float, entry: float) -> None:
    """Draw panels from left to right, centred at the height ``middle``, with entries of side ``entry``, in inches."""
    height = figure.get_figheight()
    left = _MARGIN
    for number, panel in enumerate(panels):
        if number > 0:
            if panel.equals:
                place = ((left + _EQUALS / 2) / _WIDTH, middle / height)
                figure.text(*place, "=", fontsize=14, color=_TEXT, ha="center", va="center")
            left += panel.gap
        rows, columns = panel.colours.shape[:2]
        bottom = middle - rows * entry / 2
        axes = figure.add_axes((left / _WIDTH, bottom / height, columns * entry / _WIDTH, rows * entry / height))
        _draw_panel(axes, panel, entry)
        left += columns * entry


def _draw_panel(axes: Axes, panel: _Panel, entry: float) -> None:
    rows, columns = panel.colours.shape[:2]
    axes.imshow(panel.colours, extent=(0, columns, rows, 0), interpolation="nearest", aspect="auto")
    if max(rows, columns) <= _LINED:
        axes.hlines(range(1, rows), 0, columns, color="white", linewidth=0.5)
        axes.vlines(range(1, columns), 0, rows, color="white", linewidth=0.5)
    if panel.dots is not None:
        sources = np.arange(columns) + 0.5
        # An inch has 72 points; s is the area of a square around the dot.
        axes.scatter(sources, panel.dots.numpy() + 0.5, s=(0.75 * 72 * entry) ** 2, color=_GREY, linewidths=0)
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    axes.spines[:].set(color=_LINES, linewidth=0.8)
    axes.set_xlabel(panel.label, fontsize=9, color=_TEXT, labelpad=4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the factors of GS-matrices and the density of their products.")
    parser.add_argument("folder", metavar="OUT_DIR", type=Path, help="folder for gs_structure.png and gs_density.png")
    for path in write_pictures(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
