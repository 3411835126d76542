"""The benchmark of the engines measures every engine, completes its file, and draws a picture."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import engines
from benchmarks.engines import (
    CANDIDATES,
    ENGINES,
    MODES,
    PLAIN,
    Cell,
    cells,
    lost_by_auto,
    main,
    measure,
    report,
    with_choices,
)
from benchmarks.engines_picture import plot_engines
from lipnet.layers import SOC

CELL = Cell("training", size=2, channels=8, groups=4, kernel_size=3, batch=1)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_ROUNDS", (1, 1))


@pytest.mark.parametrize("mode", MODES)
def test_measures_every_engine_of_a_cell(mode: str) -> None:
    measured = measure(CELL._replace(mode=mode), torch.device("cpu"))
    assert list(measured["seconds"]) == [PLAIN, *ENGINES]
    choices = with_choices(measured)
    for padding_mode, names in CANDIDATES.items():
        assert choices["auto"][padding_mode] in names
    (row,) = (list(cells) for cells in zip(*(column.cells for column in report([choices]).columns), strict=True))
    multiples = [measured["seconds"][name] / measured["seconds"][PLAIN] for name in ENGINES]
    assert [re.sub(r"\[/?(bold)?\]", "", cell) for cell in row[4:]] == [f"{multiple:.2f}" for multiple in multiples]


def test_slow_engines_and_cells_are_left_out() -> None:
    assert not Cell("training", 32, 64, 1, 3, 32).fits("dense")
    assert not Cell("training", 32, 256, 1, 3, 32).fits("spectral")
    assert Cell("training", 32, 256, 1, 1, 32).fits("dense")
    assert [cell.size for cell in cells([256], [2, 32], [1], 3, 32)] == [2, 2]


def _measured(channels: int = 8, **seconds: float) -> dict[str, Any]:
    auto = {"zeros": "series", "circular": "dense"}
    return {**CELL._asdict(), "channels": channels, "seconds": {PLAIN: 1.0, **seconds}, "auto": auto}


def test_loss_of_auto_is_relative_to_the_fastest_engine_of_the_padding_mode() -> None:
    cell = _measured(series=6.0, dense=4.0, spectral=2.0)
    assert lost_by_auto(cell, "zeros") == (1.5, "dense")
    assert lost_by_auto(cell, "circular") == (2.0, "spectral")
    assert lost_by_auto(_measured(series=6.0, spectral=2.0), "circular") == (float("inf"), "spectral")


def test_completes_the_file_without_measuring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, picture = tmp_path / "engines.json", tmp_path / "engines.png"
    call = ["engines", "--sizes", "2", "--groups", "4", "--batch", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*call, "--channels", "8"])
    main()
    first = json.loads(output.read_text())["cells"]
    assert len(first) == len(MODES)
    monkeypatch.setattr(sys, "argv", [*call, "--channels", "8", "16", "--plot", str(picture)])
    main()
    second = json.loads(output.read_text())["cells"]
    assert len(second) == 2 * len(MODES)
    assert first.items() <= second.items()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "4 of 4 cells measured" in capsys.readouterr().out


def test_refuses_a_file_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engines.json"
    output.write_text(json.dumps({"machine": {"device": "another"}, "cells": {}}))
    monkeypatch.setattr(sys, "argv", ["engines", "--output", str(output)])
    with pytest.raises(SystemExit):
        main()
    assert "another" in capsys.readouterr().err


def test_choices_agree_with_those_of_a_layer() -> None:
    layer = SOC(8, 8, groups=4, padding_mode="circular")
    for mode, training in zip(MODES, (True, False), strict=True):
        for size in (2, 32):
            cell = CELL._replace(mode=mode, size=size, batch=32)
            expected = layer.train(training).choice(32, (size, size)).engine
            assert with_choices(cell._asdict())["auto"]["circular"] == expected


def test_picture_has_a_panel_for_each_size_mode_and_groups() -> None:
    cells = [_measured(8, series=2.0, dense=1.0) | {"mode": mode, "size": size} for mode in MODES for size in (2, 4)]
    figure = plot_engines([*cells, _measured(16, series=1.0) | {"kernel_size": 1}])
    assert [axis.get_title() for axis in figure.axes] == ["2 x 2 maps", "4 x 4 maps", "", ""]
    with pytest.raises(ValueError, match="must include kernel size 5"):
        plot_engines(cells, kernel_size=5)
