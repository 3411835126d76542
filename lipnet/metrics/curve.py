"""Certified accuracy against radius: the exact step curve, and its plots.

matplotlib is imported at the first plot, because certification also runs where nothing is plotted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lipnet.functional.margins import STANDARD_RADII, parse_radius, round_down
from lipnet.metrics.functional import _proven_radius, _samples_validation, certified_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE = "#1f5a96"
_GREY = "#555555"


def certified_curve(radius: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the exact step curve of certified accuracy against radius.

    The certified accuracy is ``accuracy[k]`` for every r in ``[radii[k], radii[k + 1])``, and 0 from ``radii[-1]`` on.
    A sample of radius r is not certified at r itself, because its ball is open. So correct samples of radius 0 only
    count in the clean accuracy, not in the certified accuracy at r = 0.

    Args:
        radius: certified L2 radius of each sample, shape (B,), floating, for pixels in [0, 1]; NaN and infinite radii
            count as 0.
        correct: whether each prediction is the label, shape (B,), bool.

    Returns:
        radii: shape (S,), float64, strictly increasing from 0: the places where the curve steps down.
        accuracy: shape (S,), float64, strictly decreasing to 0.

    Raises:
        ValueError: a shape or dtype differs, or there are no samples.

    Example:
        >>> radius = torch.tensor([0.50, 0.25, 0.90, 0.50])
        >>> radii, accuracy = certified_curve(radius, torch.tensor([True, True, False, True]))
        >>> radii.tolist(), accuracy.tolist()
        ([0.0, 0.25, 0.5], [0.75, 0.5, 0.0])
    """
    _samples_validation(radius, correct)
    if radius.numel() == 0:
        raise ValueError("a curve needs at least one sample, got none")
    proven = _proven_radius(radius, correct)
    steps, counts = torch.unique(proven[proven > 0], return_counts=True)
    origin = torch.zeros(1, dtype=torch.int64, device=radius.device)
    left = counts.sum() - torch.cat([origin, counts.cumsum(dim=0)])
    return torch.cat([origin.to(torch.float64), steps]), left.to(torch.float64) / radius.numel()


def plot_certified_curve(
    radius: Tensor,
    correct: Tensor,
    marks: Sequence[str | float] = STANDARD_RADII,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Plot certified accuracy against radius, with labels at the clean accuracy and at ``marks``.

    The axis ends a little beyond the largest of ``marks``, where the curve may not have reached 0.

    Args:
        radius: certified L2 radius of each sample, shape (B,), floating, for pixels in [0, 1].
        correct: whether each prediction is the label, shape (B,), bool.
        marks: the radii to mark, each a fraction, a decimal or a number.
        title: title of the plot.
        ax: axes to draw on; None for a new figure, created without pyplot and saved by ``figure.savefig``.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: a shape or dtype differs, there are no samples, or ``marks`` is empty, repeats a radius or holds
            one that cannot be parsed.
    """
    radii, accuracy = certified_curve(radius, correct)
    marked = certified_accuracy(radius, correct, marks).tolist()
    clean = correct.to(torch.float64).mean().item()
    axes = _radius_axes(marks, ax)
    end = axes.get_xlim()[1]
    corners = [0.0, *radii.tolist(), max(end, radii[-1].item())]
    percent = [100 * value for value in (clean, *accuracy.tolist(), 0.0)]
    axes.fill_between(corners, percent, step="post", color=_BLUE, alpha=0.12, linewidth=0)
    axes.step(corners, percent, where="post", color=_BLUE, linewidth=1.8)
    _mark(axes, 0.0, clean, "clean", face="white")
    for mark, value in zip(marks, marked, strict=True):
        _mark(axes, parse_radius(mark), value, str(mark))
    if title is not None:
        # A label near 100 % extends above the axes, into the usual place of the title.
        axes.set_title(title, loc="left", fontsize=11, pad=30 if max(clean, *marked) > 0.85 else 12)
    return _figure_of(axes), axes


def plot_accuracy_at_radii(
    radii: Sequence[str | float], results: Sequence[Tensor], *, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Plot certified accuracies at ``radii``, with one line for each of ``results``.

    Args:
        radii: the R radii, each a fraction, a decimal or a number.
        results: at least one tensor of shape (R,).
        ax: axes to draw on; None for a new figure.

    Raises:
        ValueError: a result does not have a value for each radius.
    """
    for result in results:
        if result.shape != (len(radii),):
            raise ValueError(
                f"a result must have a value for each of the {len(radii)} radii {tuple(radii)}, got shape "
                f"{tuple(result.shape)}"
            )
    axes = _radius_axes(radii, ax)
    order = sorted(range(len(radii)), key=lambda index: parse_radius(radii[index]))
    places = [parse_radius(radii[index]) for index in order]
    for step, result in enumerate(results):
        percent = [100 * result[index].item() for index in order]
        strength = (step + 1) / len(results)
        # The legend names the first and the last line. A leading underscore hides the others.
        label = f"evaluation {step}" if len(results) > 1 and step in (0, len(results) - 1) else "_unnamed"
        axes.plot(places, percent, color=_BLUE, alpha=strength, linewidth=1.2, label=label)
    for radius, value in zip(radii, results[-1].tolist(), strict=True):
        _mark(axes, parse_radius(radius), value, str(radius))
    if len(results) > 1:
        axes.legend(frameon=False, loc="upper right")
    return _figure_of(axes), axes


def plot_over_evaluations(results: Sequence[Tensor], label: str, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Plot the results of successive evaluations as a line.

    Args:
        results: at least one scalar.
        label: name of the vertical axis.
        ax: axes to draw on; None for a new figure.

    Raises:
        ValueError: a result is not a single number.
    """
    for result in results:
        if result.numel() != 1:
            raise ValueError(f"a result must be a single number, got shape {tuple(result.shape)}")
    axes = _clean_axes(ax)
    values = [result.item() for result in results]
    axes.plot(range(len(values)), values, color=_BLUE, linewidth=1.2, marker="o", clip_on=False)
    if math.isfinite(values[-1]):
        _label(axes, (len(values) - 1, values[-1]), round_down(values[-1]))
    axes.set_xticks(range(0, len(values), 1 + len(values) // 10))
    top = 1.15 * max((value for value in values if value > 0), default=1.0)
    axes.set(ylim=(0, top), xlabel="evaluation", ylabel=label)
    return _figure_of(axes), axes


def _clean_axes(ax: Axes | None) -> Axes:
    """Style ``ax``, or the axes of a new figure: a light grid, no frame at the top and right."""
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        figure = Figure(figsize=(6.4, 4.0), dpi=150, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12))
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.grid(color="#e4e4e4", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_GREY)
    ax.tick_params(colors=_GREY, labelsize=9)
    return ax


def _radius_axes(marks: Sequence[str | float], ax: Axes | None) -> Axes:
    """Make axes of per cent against radius that reach a little beyond the largest of ``marks``."""
    axes = _clean_axes(ax)
    # Leave room for the label of the last mark. With a single mark at 0, any width will do.
    width = 1.12 * (max(parse_radius(mark) for mark in marks) or 1.0)
    axes.set(xlim=(0, width), ylim=(0, 100), xlabel="L2 radius (pixels in [0, 1])", ylabel="certified accuracy (%)")
    return axes


def _mark(axes: Axes, radius: float, accuracy: float, name: str, face: str = _BLUE) -> None:
    """Mark a point, with its label to the upper right, where a falling curve leaves room."""
    point = (radius, 100 * accuracy)
    axes.plot(*point, marker="o", markersize=5.5, color=_BLUE, markerfacecolor=face, clip_on=False, zorder=3)
    _label(axes, point, f"{name}\n{100 * accuracy:.1f} %")


def _label(axes: Axes, point: tuple[float, float], text: str) -> None:
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"fontsize": 8.5, "color": "#222222", "linespacing": 1.15, "annotation_clip": False}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    axes.annotate(text, point, xytext=(4, 5), textcoords="offset points", path_effects=halo, **style)


def _figure_of(axes: Axes) -> Figure:
    # The figure itself, even for axes in a subfigure.
    return axes.figure.canvas.figure
