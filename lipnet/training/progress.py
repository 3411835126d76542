"""Callbacks that show a training: a line per epoch, a progress bar, a model summary. Also a resumable CSV log."""

import csv
import io
import logging
import math
import sys
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, ProgressColumn

from lipnet.files import atomic_write
from lipnet.training.length import batches_of
from lipnet.training.module import certified_accuracy_key

log = logging.getLogger("lipnet")

BAR_WIDTH = 8


@rank_zero_only
def report(line: str) -> None:
    """Log a line, and print it unless a terminal shows a progress bar."""
    log.info(line)
    if not sys.stdout.isatty():
        print(line, flush=True)


class Clock:
    """Estimate of the time left: the rest of ``max_time``, or of the batches at the speed so far, the shorter one."""

    def __init__(self) -> None:
        self._began, self._first, self._last = monotonic(), 0, math.nan

    def start(self, trainer: Trainer) -> None:
        """Start from the batches that the training has done."""
        self._began, self._first, self._last = monotonic(), _batches_done(trainer), math.nan

    def left(self, trainer: Trainer) -> timedelta | None:
        """Return the time left in whole seconds, or None while it is not known."""
        timers = [each.time_remaining() for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        ends = [float(each) for each in timers if each is not None]
        done = _batches_done(trainer)
        if done > self._first:
            # At the start of a resumed training, Lightning does not know max_steps yet (see `ExactResumption`).
            self._last = batches_of(trainer) if math.isnan(self._last) else self._last
            rest = (self._last - done) * (monotonic() - self._began) / (done - self._first)
            ends += [rest] if math.isfinite(rest) else []
        return timedelta(seconds=round(max(0.0, min(ends)))) if ends else None


def _batches_done(trainer: Trainer) -> int:
    return trainer.fit_loop.total_batch_idx + 1


class EpochLog(Callback):
    """Callback that reports loss, accuracy, certified accuracy, time and the time left after every epoch.

    In a Hydra command, the lines go to train.log, and to the output unless that is a terminal.
    """

    def __init__(self) -> None:
        self._began, self._clock = monotonic(), Clock()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = monotonic()
        self._clock.start(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        figures = trainer.callback_metrics
        certified = [name for name in figures if name.startswith("val/certified_")][:1]
        shown = [name for name in ("train/loss", "val/loss", "val/accuracy", *certified) if name in figures]
        texts = [f"{name} {figures[name].item():.4f}" for name in shown]
        now, left = monotonic(), self._clock.left(trainer)
        times = [f"{now - self._began:.1f} s", *([f"{left} left"] if left is not None else [])]
        report(f"epoch {trainer.current_epoch}: " + ", ".join([*texts, *times]))
        self._began = now


class ModelSummary(Callback):
    """Callback that reports the network's class, number of parameters and dtype at the start of a training."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        parameters = list(pl_module.parameters())
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        frozen = sum(parameter.numel() for parameter in parameters) - trained
        dtypes = ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters}))
        name = type(getattr(pl_module, "model", pl_module)).__name__
        report(f"{name}: {trained:,} parameters{f' and {frozen:,} frozen ones' if frozen else ''} in {dtypes}")


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with loss, accuracy, certified accuracy and the time left of the whole training.

    It appears on a terminal only; elsewhere `EpochLog` prints lines. The time left is that of `Clock`.

    Args:
        refresh_rate: number of batches between two refreshes.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._clock = Clock()

    @property
    def is_enabled(self) -> bool:
        """Tell whether the standard output is a terminal, and the bar was not disabled."""
        return super().is_enabled and sys.stdout.isatty()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the time left."""
        self._clock.start(trainer)
        super().on_train_start(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the figures behind the bar as short texts."""
        figures = super().get_metrics(trainer, pl_module)
        radii = getattr(getattr(pl_module, "certified_accuracy", None), "radii", ())
        names = {certified_accuracy_key(radius): radius for radius in radii}
        shown: dict[str, Any] = {}
        for name, value in figures.items():
            short = name.split("/", 1)[-1]
            if name == "train/loss":
                shown["loss"] = f"{value:.3f}"
            elif name == "val/accuracy":
                shown["acc"] = f"{value:.1%}"
            elif short.startswith("certified_"):
                shown[names.get(name, short.removeprefix("certified_"))] = f"{value:.1%}"
        left = self._clock.left(trainer)
        return shown if left is None else {**shown, "left": str(left)}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return Lightning's columns of epoch, bar and batches, so narrow that the figures fit into 80 characters."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)[:3]
        for bar in (each for each in columns if isinstance(each, BarColumn)):
            bar.bar_width = BAR_WIDTH
        return columns

    def _get_train_description(self, current_epoch: int) -> str:
        """Leave out the number of epochs where it is unlimited; Lightning would write "Epoch 3/-2"."""
        return super()._get_train_description(current_epoch).replace("/-2", "")


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger, which continues the metrics.csv of an earlier start instead of deleting it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _ContinuingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _ContinuingWriter(ExperimentWriter):
    """Writer that keeps the rows before the step from which the training resumes. Later rows are logged again.

    A last line without an end was cut by a full disk or a kill, and is dropped: its last number may have lost digits.
    """

    _continues = True

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        path = Path(self.metrics_file_path)
        if self._continues and path.is_file() and step is not None:
            self._keep_rows(path, step)
        self._continues = False
        super().log_metrics(metrics_dict, step)

    def _keep_rows(self, path: Path, end: int) -> None:
        """Reduce the file to its complete rows before a step, and take over its columns."""
        with path.open(newline="") as file:
            lines = file.read()
        rows = csv.DictReader(io.StringIO(lines[: lines.rfind("\n") + 1], newline=""))
        kept = [row for row in rows if _step_of(row, path, rows.line_num) < end]
        self.metrics_keys = list(rows.fieldnames or [])
        if not self.metrics_keys:
            path.unlink()
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=self.metrics_keys)
        writer.writeheader()
        writer.writerows(kept)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())

    def _check_log_dir_exists(self) -> None:
        """Do nothing. Lightning would warn and delete the file."""


def _step_of(row: dict[str, Any], path: Path, line: int) -> int:
    """Return the step of a row of metrics.csv; raise ValueError for a row with other columns than the header."""
    step = row.get("step")
    # DictReader puts surplus cells under None, and None into missing ones.
    if None in row or None in row.values() or not str(step).isdecimal():
        raise ValueError(
            f"{path} is damaged: line {line} must have a step and a cell for each column, got {[*row.values()]}: "
            "remove this line, or the file, to resume"
        )
    return int(str(step))
