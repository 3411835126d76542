"""The graphs, block ranks and shuffles that are drawn are those of the matrices."""

from __future__ import annotations

from pathlib import Path

from lipnet.functional import shuffle_permutation
from tools.gs_graphs import graph_figure, ranks_figure, shuffles_figure, write_graphs


def test_an_edge_is_drawn_for_every_entry_passed_on() -> None:
    shuffle, butterflies = graph_figure(4, 4).axes
    assert (len(shuffle.lines), len(butterflies.lines)) == (16, 32)
    ends = [round(float(line.get_ydata()[1]) * 4 - 0.5) for line in shuffle.lines]
    assert ends == shuffle_permutation(16, 4).tolist()


def test_the_ranks_are_written_in_their_blocks() -> None:
    first, second, third = ([text.get_text() for text in axes.texts] for axes in ranks_figure().axes)
    assert first == [f"rank {rank}" for rank in (2, 1, 2, 1, 1, 2, 1, 2)]
    assert sum(int(text.split()[1]) for text in second) == 12
    assert sum(int(text.split()[1]) for text in third) == 24


def test_shuffles_lead_every_entry_to_its_place() -> None:
    for axes, groups in zip(shuffles_figure().axes, (2, 3, 4, 6), strict=True):
        assert [line.get_ydata()[1] for line in axes.lines] == shuffle_permutation(12, groups).tolist()


def test_the_pictures_are_written(tmp_path: Path) -> None:
    paths = write_graphs(tmp_path / "images")
    assert [path.name for path in paths] == ["gs_graph.png", "gs_ranks.png", "gs_shuffles.png"]
    assert min(path.stat().st_size for path in paths) > 5_000
