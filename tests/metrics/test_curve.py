"""The step curve of certified accuracy against its definition, and the texts of its plot."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lipnet.metrics import certified_curve, plot_certified_curve
from lipnet.metrics.functional import certified_accuracy


def samples(count: int = 200) -> tuple[Tensor, Tensor]:
    """Radii on a coarse grid, so that many are equal and some are 0."""
    generator = torch.Generator().manual_seed(0)
    radius = torch.randint(0, 40, (count,), generator=generator).to(torch.float64) / 32
    return radius, torch.rand(count, generator=generator) < 0.7


def curve_at(radius: float, radii: Tensor, accuracy: Tensor) -> float:
    return accuracy[(radii <= radius).sum() - 1].item()


def test_curve_is_the_certified_accuracy_at_every_radius() -> None:
    radius, correct = samples()
    radii, accuracy = certified_curve(radius, correct)
    steps = set(radius.tolist())
    beside = {math.nextafter(step, 9) for step in steps} | {math.nextafter(step, 0) for step in steps}
    for edge in steps | beside | {0.07, 5.0}:
        pairs = zip(radius.tolist(), correct.tolist(), strict=True)
        assert curve_at(edge, radii, accuracy) == sum(c and r > edge for r, c in pairs) / 200


def test_curve_steps_down_strictly_from_zero_radius_to_zero_accuracy() -> None:
    radii, accuracy = certified_curve(*samples())
    assert radii.dtype == accuracy.dtype == torch.float64
    assert radii[0] == 0
    assert accuracy[-1] == 0
    assert (radii.diff() > 0).all()
    assert (accuracy.diff() < 0).all()


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_curve_of_nothing_certified_is_zero(value: float) -> None:
    radii, accuracy = certified_curve(torch.full((3,), value), torch.tensor([True, True, False]))
    assert radii.tolist() == [0.0]
    assert accuracy.tolist() == [0.0]


def test_curve_of_no_samples_raises() -> None:
    with pytest.raises(ValueError, match="at least one sample, got none"):
        certified_curve(torch.zeros(0), torch.zeros(0, dtype=torch.bool))


def test_curve_of_samples_of_a_wrong_kind_raises() -> None:
    with pytest.raises(ValueError, match=r"correct .* dtype torch\.int64"):
        certified_curve(torch.zeros(2), torch.ones(2, dtype=torch.int64))


def test_picture_says_the_figures() -> None:
    radius, correct = samples()
    _, axes = plot_certified_curve(radius, correct, title="a network")
    clean = 100 * correct.double().mean().item()
    names = ["36/255", "72/255", "108/255", "1"]
    accuracies = (100 * certified_accuracy(radius, correct, names)).tolist()
    figures = zip(["clean", *names], [clean, *accuracies], strict=True)
    assert [text.get_text() for text in axes.texts] == [f"{name}\n{value:.1f} %" for name, value in figures]
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlabel() == "L2 radius (pixels in [0, 1])"
    assert axes.get_title(loc="left") == "a network"


def test_picture_draws_the_curve_from_the_clean_accuracy_on() -> None:
    radius, correct = samples()
    _, axes = plot_certified_curve(radius, correct)
    radii, accuracy = certified_curve(radius, correct)
    places, percent = axes.lines[0].get_data()
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert percent[0] == pytest.approx(100 * correct.double().mean().item())
    assert percent[0] > percent[1], "some correct samples have radius 0"
    assert places[1:-1].tolist() == radii.tolist()
    assert percent[1:-1].tolist() == pytest.approx((100 * accuracy).tolist())
    assert (places[-1], percent[-1]) == (max(axes.get_xlim()[1], radii[-1].item()), 0)


@pytest.mark.parametrize("share", [1.0, 0.97, 0.43, 0.0])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e3])
def test_labels_collide_neither_with_each_other_nor_with_the_title(share: float, scale: float) -> None:
    radius = scale * torch.linspace(0, 1, 100, dtype=torch.float64)
    correct = torch.rand(100, generator=torch.Generator().manual_seed(0)) < share
    figure, axes = plot_certified_curve(radius, correct, title="LipConvNet-15 on CIFAR-100, in float64")
    figure.canvas.draw()
    texts = [text for text in axes.findobj(Text) if "%" in text.get_text() or "LipConvNet" in text.get_text()]
    boxes = [text.get_window_extent() for text in texts if text is not axes.yaxis.label]
    assert len(boxes) == 6
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_picture_leaves_pyplot_alone_and_can_be_saved(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure, _ = plot_certified_curve(*samples(), marks=["0", 0.5])
    figure.savefig(tmp_path / "curve.png")
    assert pyplot.get_fignums() == before
    assert matplotlib.image.imread(tmp_path / "curve.png").shape[:2] == (600, 960)


def test_picture_can_be_drawn_on_axes_of_a_subfigure() -> None:
    figure = Figure()
    axes = figure.subfigures(1, 2)[1].subplots()
    drawn, same = plot_certified_curve(*samples(), ax=axes)
    assert drawn is figure
    assert same is axes


def test_a_mark_at_zero_alone_is_drawn() -> None:
    _, axes = plot_certified_curve(*samples(), marks=["0"])
    assert axes.get_xlim()[1] > 0


def test_marks_that_make_no_sense_raise() -> None:
    with pytest.raises(ValueError, match="at least one radius"):
        plot_certified_curve(*samples(), marks=[])
    with pytest.raises(ValueError, match="got 'far'"):
        plot_certified_curve(*samples(), marks=["far"])
