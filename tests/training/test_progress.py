"""The line an epoch, the progress bar's text, the summary, and the CSV file that a resumed training continues."""

from __future__ import annotations

import csv
import io
import logging
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from lipnet.training import BatchWarmup, EpochLog, ModelSummary, ProgressBar, ResumableCSVLogger, progress
from lipnet.training.progress import Clock
from tests.training.runs import Interrupted, KillAfter, best_checkpoint, fit, make_module


def test_an_epoch_is_a_line(
    tmp_path: Path, tiny_config: dict[str, Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lipnet"):
        fit(tiny_config, tmp_path, callbacks=[EpochLog(), ModelSummary()], limit_train_batches=2)
    lines = [record.getMessage() for record in caplog.records if record.name == "lipnet"]
    assert lines[0].startswith("LipConvNet: ")
    assert "parameters in float32" in lines[0]
    for epoch, line in enumerate(lines[1:]):
        assert line.startswith(f"epoch {epoch}: train/loss ")
        assert "val/accuracy 0." in line
        assert "val/certified_36_255 0." in line
        assert re.search(r", \d+\.\d s, 0:\d\d:\d\d left$", line)
    assert lines[-1].endswith(" 0:00:00 left")
    assert len(lines) == 3
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in lines] == lines, "the output is no terminal here"


def test_the_time_left_is_that_of_the_time_limit(
    tmp_path: Path, tiny_config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="lipnet"):
        fit(tiny_config, tmp_path, callbacks=[EpochLog()], max_epochs=1000, max_time="00:00:00:03")
    lines = [record.getMessage() for record in caplog.records if record.name == "lipnet"]
    assert lines
    assert all(re.search(r", 0:00:0[0-3] left$", line) for line in lines), lines


class EveryBatchTakesASecond(Callback):
    """Callback that advances the clock of the progress."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        monkeypatch.setattr(progress, "monotonic", lambda: self.seconds)

    def on_train_batch_start(self, *_: Any) -> None:
        self.seconds += 1


@pytest.mark.parametrize(
    ("settings", "growth", "left"),
    [
        ({"max_epochs": 3}, {0: 1, 1: 4}, [12, 6, 0]),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, None, [12, 6, 0]),
        ({"max_epochs": -1, "max_steps": 9}, {0: 1, 1: 4}, [10, 4, 0]),
        ({"max_epochs": 2, "max_steps": 9}, {0: 1, 1: 4}, [6, 0]),
    ],
    ids=str,
)
def test_the_time_left_is_that_of_the_batches_left(
    tmp_path: Path,
    tiny_config: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    growth: dict[int, int] | None,
    left: list[int],
) -> None:
    """With the growth, the six batches of an epoch are 6 steps at first, then 2; step 9 is four batches later."""
    callbacks = [EveryBatchTakesASecond(monkeypatch), EpochLog(), *([BatchWarmup(growth)] if growth else [])]
    with caplog.at_level(logging.INFO, logger="lipnet"):
        fit(tiny_config, tmp_path, callbacks=callbacks, limit_train_batches=6, limit_val_batches=1, **settings)
    lines = [record.getMessage() for record in caplog.records if record.name == "lipnet"]
    assert [re.findall(r"0:00:(\d\d) left$", line) for line in lines] == [[f"{seconds:02}"] for seconds in left]


def test_the_bar_and_its_figures_fit_into_80_characters(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = ProgressBar()
    trainer = Trainer(max_epochs=40, logger=False, enable_checkpointing=False, accelerator="cpu")
    figures = {"train/loss": 1.2345, "val/accuracy": 0.9321, "val/certified_36_255": 0.8768, "lr": 0.1}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *_: figures)
    monkeypatch.setattr(Clock, "left", lambda *_: timedelta(seconds=754))
    shown = bar.get_metrics(trainer, make_module(tiny_config))
    assert shown == {"loss": "1.234", "acc": "93.2%", "36/255": "87.7%", "left": "0:12:34"}
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    progress = Progress(*bar.configure_columns(trainer), console=console)
    progress.add_task("Epoch 12/39", total=351, completed=120)
    [line] = progress.get_renderables()
    with console.capture() as capture:
        console.print(line)
    text = Text.from_ansi(capture.get()).plain.rstrip()
    assert "120/351" in text
    assert len(f"{text} {' '.join(f'{name}: {value}' for name, value in shown.items())}") <= 80


def test_the_bar_names_radii_as_they_were_given(tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    figures = {"val/certified_0_5": 0.25, "val/certified_1_5": 0.125}
    monkeypatch.setattr(RichProgressBar, "get_metrics", lambda *_: figures)
    monkeypatch.setattr(Clock, "left", lambda *_: None)
    module = make_module(tiny_config, radii=("0.5", "1/5"))
    assert ProgressBar().get_metrics(trainer, module) == {"0.5": "25.0%", "1/5": "12.5%"}
    assert ProgressBar().get_metrics(trainer, LightningModule()) == {"0_5": "25.0%", "1_5": "12.5%"}


def test_an_epoch_without_figures_is_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    with caplog.at_level(logging.INFO, logger="lipnet"):
        EpochLog().on_train_epoch_end(trainer, LightningModule())
    assert re.fullmatch(r"epoch 0: \d+\.\d s", caplog.messages[-1])


def test_a_training_without_a_last_epoch_names_none() -> None:
    bar = ProgressBar()
    for epochs, text in ((-1, "Epoch 3"), (40, "Epoch 3/39")):
        bar._trainer = Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, accelerator="cpu")
        assert bar._get_train_description(3).strip() == text


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_resumed_training_continues_its_csv_file(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Cut in the second epoch and resumed from the first: the rows are those of the training in one go."""

    def run(folder: Path, ckpt_path: Path | None = None, *more: Any) -> None:
        logger = ResumableCSVLogger(folder, name="csv", version="", flush_logs_every_n_steps=1)
        callbacks = [best_checkpoint(folder), *more]
        fit(tiny_config, folder, ckpt_path, logger=logger, callbacks=callbacks, log_every_n_steps=2)

    run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", None, KillAfter(30))
    assert int(rows_of(tmp_path / "cut")[-1]["step"]) > 21
    run(tmp_path / "cut", tmp_path / "cut" / "last.ckpt")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def continued(path: Path, content: bytes) -> str:
    """The file after a training that resumes from step 12 has logged once."""
    path.write_bytes(content)
    writer = ResumableCSVLogger(path.parent, name="", version="").experiment
    writer.log_metrics({"loss": 0.5}, step=12)
    writer.save()
    return path.read_text()


WHOLE = b"loss,step\r\n0.75,9\r\n0.25,11\r\n"


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_row_that_a_full_disk_cut_is_dropped(tmp_path: Path, cut: int) -> None:
    """The row is "0.25,11" and its end; cut to "0.25,1", it looks like one of step 1."""
    text = continued(tmp_path / "metrics.csv", WHOLE[:-cut])
    assert text == "loss,step\n0.75,9\n0.5,12\n"


@pytest.mark.parametrize("content", [b"", b"loss,st", b"loss,step\r\n"])
def test_a_file_that_was_cut_in_its_header_starts_anew(tmp_path: Path, content: bytes) -> None:
    assert continued(tmp_path / "metrics.csv", content) == "loss,step\n0.5,12\n"


@pytest.mark.parametrize("row", [b"0.2", b"0.25,1,0.75,9", b"0.25,", b"0.25,1.5", b"0.25,-1"])
def test_a_damaged_row_within_the_file_is_named(tmp_path: Path, row: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"metrics\.csv is damaged: line 3 must have a step and a cell for each column"
    ):
        continued(tmp_path / "metrics.csv", WHOLE[:-9] + row + b"\r\n" + WHOLE[11:])
