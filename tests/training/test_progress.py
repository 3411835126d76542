"""The line an epoch, the progress bar's text, the summary, and the CSV file that a resumed training continues."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from lipnet.training import EpochLog, ModelSummary, ProgressBar, ResumableCSVLogger
from tests.training.runs import Interrupted, KillAfter, best_checkpoint, fit


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
        assert line.endswith(" s")
    assert len(lines) == 3
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in lines] == lines, "the output is no terminal here"


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
