"""The pictures show the matrices, and nothing in them collides."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from lipnet.functional import shuffle_permutation
from lipnet.structured import GSMatrix, butterfly, group_and_shuffle
from tests.structured.oracles import block_diagonal
from tools.gs_pictures import density_figure, plot_density, plot_factors, structure_figure, write_pictures

DOTS = "#555555"


def headings(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text() != "="]


def labels(figure: Figure) -> list[str]:
    return [axes.get_xlabel() for axes in figure.axes]


def coloured(axes: Axes) -> np.ndarray:
    """Return a mask of the entries of a panel that are not white."""
    return (np.asarray(axes.images[0].get_array()) < 1).any(axis=2)


def dots(axes: Axes) -> list[list[float]]:
    """The places (column, row) of a panel's dots."""
    drawn = [points for points in axes.collections if isinstance(points, PathCollection)]
    return [place for points in drawn for place in np.asarray(points.get_offsets()).tolist()]


def colours_in(axes: Axes) -> int:
    pixels = np.asarray(axes.images[0].get_array()).reshape(-1, 3)
    return len({tuple(pixel) for pixel in pixels if (pixel < 1).any()})


def test_factors_are_drawn_in_the_order_in_which_they_are_written() -> None:
    A = group_and_shuffle([torch.zeros(3, 2, 2)] * 2)
    figure = plot_factors({"some": A})
    assert labels(figure) == ["$B_{2}$", "$P_{2}$", "$B_{1}$", "$A$"]
    assert headings(figure) == ["some: 2 factors, 24 parameters, 66.67 % non-zero"]
    left, shuffle, right, product = figure.axes
    for panel in (left, right):
        np.testing.assert_array_equal(coloured(panel), block_diagonal(torch.ones(3, 2, 2)) != 0)
        assert colours_in(panel) == 3
    np.testing.assert_array_equal(coloured(product), A.support().numpy())
    assert not coloured(shuffle).any()
    # Entry i is column i, and goes to row sigma(i).
    assert dots(shuffle) == [[i + 0.5, place + 0.5] for i, place in enumerate(shuffle_permutation(6, 3).tolist())]


def test_rectangular_factors_are_drawn_to_scale() -> None:
    A = GSMatrix(torch.zeros(2, 3, 4), torch.zeros(4, 2, 5), None, right_permutation=shuffle_permutation(20, 4))
    figure = plot_factors({"rectangular": A})
    assert labels(figure) == ["$B_{2}$", "$B_{1}$", "$P_{1}$", "$A$"]
    assert [axes.images[0].get_array().shape[:2] for axes in figure.axes] == [(6, 8), (8, 20), (20, 20), (6, 20)]
    figure.canvas.draw()
    for axes in figure.axes:
        rows, columns = axes.images[0].get_array().shape[:2]
        assert axes.bbox.width / axes.bbox.height == pytest.approx(columns / rows)
    widths = [axes.bbox.width / axes.images[0].get_array().shape[1] for axes in figure.axes]
    assert widths == pytest.approx([widths[0]] * 4)


def test_inputs_have_the_colour_of_the_block_that_they_enter() -> None:
    places = shuffle_permutation(6, 3)
    A = GSMatrix(torch.zeros(1, 6, 6), torch.zeros(3, 2, 2), None, right_permutation=places)
    *_, product = plot_factors({"some": A}).axes
    row = np.asarray(product.images[0].get_array())[0]
    blocks = [place // 2 for place in places.tolist()]
    for first, second in combinations(range(6), 2):
        assert (row[first] == row[second]).all() == (blocks[first] == blocks[second])


def test_density_panels_are_the_supports_and_say_their_share() -> None:
    products = [butterfly([torch.zeros(4, 2, 2)] * count) for count in (1, 2, 3)]
    figure = plot_density({"butterflies": products})
    assert labels(figure) == ["1 factor\n25 %", "2 factors\n50 %", "3 factors\n100 %"]
    for axes, A in zip(figure.axes, products, strict=True):
        np.testing.assert_array_equal(coloured(axes), A.support().numpy())


def test_the_figures_end_with_dense_products() -> None:
    figure = structure_figure()
    assert headings(figure) == [
        "Group and shuffle: 2 factors, 128 parameters, 100 % non-zero",
        "Butterfly: 3 factors, 192 parameters, 100 % non-zero",
    ]
    shares = [label.split("\n")[1] for label in labels(density_figure())]
    assert shares == ["6.25 %", "25 %", "100 %", "6.25 %", "12.5 %", "25 %", "50 %", "100 %"]


@pytest.mark.parametrize("draw", [structure_figure, density_figure])
def test_nothing_collides_and_nothing_is_cut_off(draw: Callable[[], Figure]) -> None:
    figure = draw()
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_nothing_to_draw_is_refused() -> None:
    for draw in (plot_factors, plot_density):
        with pytest.raises(ValueError, match=r"every row needs a matrix to draw, got \{\}"):
            draw({})
    with pytest.raises(ValueError, match=r"got {'one': 1, 'none': 0}"):
        plot_density({"one": [group_and_shuffle([torch.zeros(2, 2, 2)])], "none": []})


def test_pictures_are_written_without_pyplot(tmp_path: Path) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    paths = write_pictures(tmp_path / "images")
    assert [path.name for path in paths] == ["gs_structure.png", "gs_density.png"]
    assert sorted(tmp_path.glob("images/*")) == sorted(paths)
    assert {matplotlib.image.imread(path).shape[1] for path in paths} == {1260}
    assert pyplot.get_fignums() == before


def test_the_command_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tools.gs_pictures", raising=False)
    runpy.run_module("tools.gs_pictures", run_name="__main__")
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("gs_structure.png", "gs_density.png")]
    assert (tmp_path / "gs_density.png").stat().st_size > 10_000


@pytest.mark.parametrize("draw", [structure_figure, density_figure])
def test_the_pictures_of_the_documentation_show_these_matrices(draw: Callable[[], Figure]) -> None:
    """Compare the centre of every entry: edges and letters depend on the version of Matplotlib."""
    name = draw.__name__.replace("_figure", ".png")
    kept = matplotlib.image.imread(Path(__file__).parent.parent.parent / "docs" / "images" / f"gs_{name}")[:, :, :3]
    figure = draw()
    assert kept.shape[:2] == (round(figure.bbox.height), round(figure.bbox.width))
    for axes in figure.axes:
        expected = np.asarray(axes.images[0].get_array()).copy()
        for column, row in dots(axes):
            expected[int(row), int(column)] = matplotlib.colors.to_rgb(DOTS)
        rows, columns = expected.shape[:2]
        down = kept.shape[0] - axes.bbox.y1 + (np.arange(rows) + 0.5) * axes.bbox.height / rows
        across = axes.bbox.x0 + (np.arange(columns) + 0.5) * axes.bbox.width / columns
        seen = kept[np.ix_(down.astype(int), across.astype(int))]
        np.testing.assert_allclose(seen, expected, atol=0.02)
