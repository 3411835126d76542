"""Charts draw the certified accuracies and counts of the rows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from lipnet.certify.html import Run, read_run
from lipnet.certify.html.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curve_chart, histogram
from lipnet.certify.html.runs import axis_end
from tests.certify.html.synthetic import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_run(tmp_path, count=200)
    return read_run(tmp_path)


def points_of(chart: Element, series: str, end: float) -> list[tuple[float, float]]:
    """The curve's points in data coordinates: radius, share."""
    [path] = [each for each in chart.iter("path") if each.get("class") == f"curve {series}"]
    pairs = re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))
    return [
        (end * (float(x) - LEFT) / (WIDTH - LEFT - RIGHT), (HEIGHT - BOTTOM - float(y)) / (HEIGHT - TOP - BOTTOM))
        for x, y in pairs
    ]


def test_the_curve_is_the_certified_accuracy(run: Run) -> None:
    end = axis_end([run])
    points = points_of(curve_chart([run]), "s0", end)
    assert len(points) == 400
    for number, (radius, share) in enumerate(points):
        assert radius == pytest.approx(end * number / 399, abs=1e-3)
        assert share == pytest.approx(run.certified(end * number / 399), abs=1e-3)


def test_a_curve_for_each_run(run: Run, tmp_path: Path) -> None:
    make_run(tmp_path / "other", seed=1)
    other = read_run(tmp_path / "other")
    chart = curve_chart([run, other])
    assert points_of(chart, "s1", axis_end([run, other]))[0][1] == pytest.approx(other.certified(0), abs=1e-3)
    assert f"other: {100 * other.clean:.1f} % clean" in str(chart.get("aria-label"))


def test_marks_carry_the_figures_of_the_summary(run: Run) -> None:
    texts = [each.text for each in curve_chart([run]).iter("text")]
    share = run.summary["certified_accuracy"]["36/255"]
    assert f"36/255: {100 * share:.1f} %" in texts
    # The axis ends before radius 1: nothing is there to mark.
    assert not any(str(text).startswith("1:") for text in texts)


def test_labels_of_a_flat_curve_stand_apart(tmp_path: Path) -> None:
    """Certified accuracies near 100 % up to large radii: the labels would lie on each other and on the clean line."""
    make_run(tmp_path, count=200)
    run = read_run(tmp_path)
    rows = [row._replace(radius=f"{0.02 * number:.9f}", correct=1) for number, row in enumerate(run.rows)]
    flat = dataclasses.replace(run, rows=tuple(rows))
    labels = [each for each in curve_chart([flat]).iter("text") if re.match(r"(\d+/255|1): ", str(each.text))]
    assert len(labels) == 3
    heights = [float(each.get("y", "")) for each in labels]
    assert min(heights) - 10 > TOP, "the first 10 units above a baseline are letters"
    assert abs(heights[0] - heights[1]) > 12


def test_the_histogram_counts_every_certified_image_once(run: Run) -> None:
    titles = [str(each.text) for each in histogram(run).iter("title")]
    counts = [re.search(r"(\d+) correct, (\d+) wrong", title) for title in titles]
    correct, wrong = (sum(int(count[number]) for count in counts if count) for number in (1, 2))
    assert correct == sum(row.correct and float(row.radius) > 0 for row in run.rows)
    assert wrong == sum(not row.correct and float(row.radius) > 0 for row in run.rows)


def test_nothing_certified_is_drawn_without_an_error(run: Run) -> None:
    object.__setattr__(run, "rows", [row._replace(radius="0.000000000") for row in run.rows])
    assert {point[1] for point in points_of(curve_chart([run]), "s0", 1.0)} == {0.0}
    assert not [each for each in histogram(run).iter("rect") if float(each.get("height", 0)) > 0]
