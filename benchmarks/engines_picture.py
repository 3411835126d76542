"""Picture for `benchmarks.engines`: time against channels, a panel for each size of feature maps."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.engines import ENGINES, MODES, ratios, taken_by_auto

_COLOURS = {"series": "#1f5a96", "series, circular": "#7fb3dd", "spectral": "#d9603b", "dense": "#2a9d8f"}
_LABELS = {
    "series": "series, zero padding",
    "series, circular": "series, circular padding",
    "spectral": "spectral, circular padding",
    "dense": "dense",
}
_TEXT, _GREY, _LINES = "#222222", "#555555", "#e4e4e4"
_PANEL = (2.05, 1.85)  # inches


def plot_engines(cells: Sequence[dict[str, Any]], kernel_size: int = 3) -> Figure:
    """Draw the measured cells of a kernel size: a row for each mode and number of groups, a column for each map size.

    A filled dot marks the choice of ``engine="auto"``, with zero or with circular padding.

    Returns:
        A figure made without pyplot; save it with ``figure.savefig``.

    Raises:
        ValueError: if there are no such cells.
    """
    drawn = [cell for cell in cells if cell["kernel_size"] == kernel_size]
    if not drawn:
        raise ValueError(f"cells must include kernel size {kernel_size}, got none among {len(cells)}")
    sizes, groups = (sorted({cell[key] for cell in drawn}) for key in ("size", "groups"))
    rows = [(mode, count) for mode, count in product(MODES, groups)]
    figure = Figure(figsize=(_PANEL[0] * len(sizes) + 0.5, _PANEL[1] * len(rows) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(sizes), sharex=True, sharey="row", squeeze=False)
    for (mode, count), row in zip(rows, axes, strict=True):
        for size, axis in zip(sizes, row, strict=True):
            here = {"mode": mode, "groups": count, "size": size}
            _draw(axis, [cell for cell in drawn if here.items() <= cell.items()])
            _style(axis, sorted({cell["channels"] for cell in drawn}))
        row[0].set_ylabel(f"{mode},\n{_groups(count)}", color=_TEXT, fontsize=9)
    for size, axis in zip(sizes, axes[0], strict=True):
        axis.set_title(f"{size} x {size} maps", color=_TEXT, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("channels", color=_GREY, fontsize=8)
    figure.suptitle(
        f"Time of one SOC layer as a multiple of a plain {kernel_size} x {kernel_size} convolution",
        color=_TEXT,
        fontsize=11,
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=_TEXT)
    return figure


def _draw(axis: Axes, cells: Iterable[dict[str, Any]]) -> None:
    ordered = sorted(cells, key=lambda cell: cell["channels"])
    axis.axhline(1, color=_GREY, linewidth=0.8)
    for name, colour in _COLOURS.items():
        points = [
            (cell["channels"], ratios(cell)[name], name in taken_by_auto(cell))
            for cell in ordered
            if name in ratios(cell)
        ]
        axis.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, linewidth=1.4)
        for taken in (False, True):
            axis.plot(
                [x for x, _, here in points if here is taken],
                [y for _, y, here in points if here is taken],
                linestyle="none",
                marker="o",
                markersize=5 if taken else 3.5,
                markerfacecolor=colour if taken else "white",
                markeredgecolor=colour,
                markeredgewidth=0.9,
                zorder=3,
            )


def _style(axis: Axes, channels: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(channels)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(color=_LINES, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=_GREY, labelsize=7, length=0)
    axis.spines[:].set_visible(False)


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def _legend() -> list[Line2D]:
    lines = [Line2D([], [], color=_COLOURS[name], linewidth=1.8, label=_LABELS[name]) for name in ENGINES]
    return [
        *lines,
        Line2D([], [], color=_GREY, linestyle="none", marker="o", markersize=5, label='what engine="auto" takes'),
        Line2D([], [], color=_GREY, linewidth=0.8, label="plain convolution, without groups"),
    ]
