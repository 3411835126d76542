"""Charts as inline SVG: certified accuracy against radius, and the histogram of radii."""

from collections.abc import Sequence
from math import floor, log10
from typing import NamedTuple
from xml.etree.ElementTree import Element

import torch
from torch import Tensor

from lipnet.certify.html.elements import element
from lipnet.certify.html.runs import Run, axis_end

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 26, 42
POINTS, BINS = 400, 32
LABEL_WIDTH, LABEL_ASCENT, LABEL_DESCENT = 100, 10, 3
"""Size of the longest label, "108/255: 99.9 %", above and below its baseline."""
SERIES = 8
"""Number of colours for runs; further runs repeat them."""


class _Axes:
    """Axes of a chart: x from 0 to ``end``, y from 0 to ``top``, in the units of the data."""

    def __init__(self, end: float, top: float) -> None:
        self.end, self.top = end, top

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.end

    def radius(self, x: float) -> float:
        return self.end * (x - LEFT) / (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def chart(self, *marks: Element, label: str, x_label: str, y_label: str, y_step: float) -> Element:
        """Return the chart with grid, ticks and labels around its marks."""
        parts = []
        for tick in _ticks(self.top, y_step):
            parts.append(_line(LEFT, self.y(tick), WIDTH - RIGHT, self.y(tick), class_="grid"))
            parts.append(_text(LEFT - 6, self.y(tick) + 4, f"{tick:g}", class_="tick end"))
        for tick in _ticks(self.end, _nice(self.end / 5)):
            parts.append(_line(self.x(tick), HEIGHT - BOTTOM, self.x(tick), HEIGHT - BOTTOM + 4, class_="axis"))
            parts.append(_text(self.x(tick), HEIGHT - BOTTOM + 17, f"{tick:g}", class_="tick middle"))
        parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, class_="axis"))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, class_="name middle"))
        parts.append(_text(4, 13, y_label, class_="name"))
        box = f"0 0 {WIDTH} {HEIGHT}"
        return element("svg", *parts, *marks, viewBox=box, role="img", aria_label=label, class_="chart")


def curve_chart(runs: Sequence[Run]) -> Element:
    """Return the chart of certified accuracy in per cent: a line for each run, and its clean accuracy dashed."""
    axes = _Axes(axis_end(runs), 100)
    marks = []
    for number, run in enumerate(runs):
        series = f"s{number % SERIES}"
        grid = torch.linspace(0, axes.end, POINTS, dtype=torch.float64)
        above = len(run.steps) - torch.searchsorted(run.steps, grid, right=True)
        points = zip(grid.tolist(), (100 * above / len(run.rows)).tolist(), strict=True)
        path = "L".join(f"{axes.x(r):.1f} {axes.y(share):.1f}" for r, share in points)
        if len(runs) == 1:
            base = f"L{axes.x(axes.end):.1f} {axes.y(0):.1f}L{axes.x(0):.1f} {axes.y(0):.1f}Z"
            marks.append(element("path", d=f"M{path}{base}", class_=f"area {series}"))
        clean = axes.y(100 * run.clean)
        marks.append(_line(LEFT, clean, WIDTH - RIGHT, clean, class_=f"clean {series}"))
        marks.append(element("path", d=f"M{path}", class_=f"curve {series}"))
        if len(runs) == 1:
            marks.append(_text(WIDTH - RIGHT, clean - 6, f"clean {100 * run.clean:.1f} %", class_="value end"))
            marks += _marks(axes, run)
    marks.append(_line(LEFT, TOP, LEFT, HEIGHT - BOTTOM, class_="cursor", id="cursor"))
    label = "Certified accuracy against radius: " + "; ".join(_in_words(run) for run in runs)
    names = {"x_label": "L2 radius (pixels in [0, 1])", "y_label": "certified accuracy (%)"}
    chart = axes.chart(*marks, label=label, y_step=20, **names)
    for name, value in {"end": axes.end, "left": axes.x(0), "right": axes.x(axes.end), "width": WIDTH}.items():
        chart.set(f"data-{name}", str(value))
    chart.set("id", "curve")
    return chart


def histogram(run: Run) -> Element:
    """Return the histogram of the certified radii that are not 0: correct images below, wrong ones above."""
    end = axis_end([run])
    correct, wrong = (_counts(run.radius[which & (run.radius > 0)], end) for which in (run.correct, ~run.correct))
    highest = float((correct + wrong).max())
    step = _nice(max(1.0, highest / 4))
    axes = _Axes(end, max(step, highest))
    bars = []
    for number, (right, false) in enumerate(zip(correct.tolist(), wrong.tolist(), strict=True)):
        first, last = end * number / BINS, end * (number + 1) / BINS
        span = f"{first:.3f} to {last:.3f}" if number < BINS - 1 else f"{first:.3f} or more"
        title = element("title", f"radius {span}: {int(right)} correct, {int(false)} wrong")
        parts = [
            element(
                "rect",
                x=f"{axes.x(first) + 0.75:.2f}",
                width=f"{axes.x(last) - axes.x(first) - 1.5:.2f}",
                y=f"{axes.y(base + count):.2f}",
                height=f"{axes.y(base) - axes.y(base + count):.2f}",
                class_=kind,
            )
            for base, count, kind in ((0, right, "bar right"), (right, false, "bar wrong"))
            if count
        ]
        bars.append(element("g", title, *parts))
    certified = int((run.radius > 0).sum())
    label = f"Histogram of {certified} certified radii; {int(wrong.sum())} of them belong to wrong predictions"
    return axes.chart(*bars, label=label, x_label="L2 radius (pixels in [0, 1])", y_label="images", y_step=step)


def _counts(radii: Tensor, end: float) -> Tensor:
    # The last bin also counts radii beyond the axis.
    return torch.histc(radii.clamp(max=end), BINS, 0, end)


def _marks(axes: _Axes, run: Run) -> list[Element]:
    """Return a dot and a label for each radius of the table that is on the axis."""
    marks: list[Element] = []
    taken: list[_Box] = []
    for text, radius in run.marks.items():
        if radius > axes.end:
            continue
        share = 100 * run.certified(radius)
        x, y = axes.x(radius), axes.y(share)
        # Labels near the right edge stand to the left of their dots, or they would leave the chart.
        at_edge = x > WIDTH - RIGHT - LABEL_WIDTH
        taken.append(_place(axes, run, x - 6 - LABEL_WIDTH if at_edge else x + 7, y, taken))
        anchor, side = (x - 6, "value end") if at_edge else (x + 7, "value")
        marks.append(element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_="mark s0"))
        marks.append(_text(anchor, taken[-1].bottom - LABEL_DESCENT, f"{text}: {share:.1f} %", class_=side))
    return marks


def _place(axes: _Axes, run: Run, left: float, y: float, taken: "Sequence[_Box]") -> "_Box":
    """Return the place of a label beside a dot at height y, where it meets neither another label nor a line.

    It is above the dot or, if there is no room, further down. If there is none down to the axis, it is above the dot.
    """
    heights = [y - 7 + step for step in range(0, max(1, int(HEIGHT - BOTTOM - y)), 3)]
    boxes = [_Box(left, height - LABEL_ASCENT, left + LABEL_WIDTH, height + LABEL_DESCENT) for height in heights]
    free = (box for box in boxes if not box.meets_line(axes, run) and not any(map(box.meets, taken)))
    return next(free, boxes[0])


class _Box(NamedTuple):
    """The place of a label, in units of the chart."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def meets_line(self, axes: _Axes, run: Run) -> bool:
        """Return whether the dashed line of the clean accuracy or the curve, which only falls, crosses the label."""
        clean = axes.y(100 * run.clean)
        upper, lower = (axes.y(100 * run.certified(axes.radius(x))) for x in (self.left, self.right))
        return self.top < clean < self.bottom or (self.top < lower and upper < self.bottom)


def _in_words(run: Run) -> str:
    """Return the curve of a run in words, for readers who cannot see it."""
    shares = ", ".join(f"{100 * share:.1f} % at {text}" for text, share in run.summary["certified_accuracy"].items())
    return f"{run.name}: {100 * run.clean:.1f} % clean, {shares}"


def _nice(step: float) -> float:
    """Round a step up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _ticks(end: float, step: float) -> list[float]:
    return [round(number * step, 10) for number in range(int(end / step + 1e-9) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Element:
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", **places, **attributes)


def _text(x: float, y: float, text: str, **attributes: object) -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)
