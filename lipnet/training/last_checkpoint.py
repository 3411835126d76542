"""The checkpoint that a training goes on from, and the end of a training's time."""

from pathlib import Path
from time import monotonic
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

UNFINISHED = 75
"""Exit status of a training that was stopped before its end and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class TimeIsUp(SystemExit):
    """Ends the program with the exit status `UNFINISHED`: the time of this start of a training is up."""

    def __init__(self) -> None:
        super().__init__(UNFINISHED)


class LastCheckpoint(Checkpoint):
    """Keeps one checkpoint of the latest state, from which a training goes on exactly.

    It is written at the end of every epoch, every ``every_minutes`` minutes within an epoch, when the time of this
    start is up, and when the process is told to end (SIGTERM). Within an epoch it is written only if the training
    loader can go on from there (those of `lipnet.data` can), and right after an optimizer step that neither ends
    the epoch nor has a validation to follow, since that would be left out in resuming.

    After ``stop_after_minutes`` the program ends in the middle of the epoch with exit status 75: without a validation
    or a certification that the uninterrupted training would not have had. A training that is resumed has the same time
    again. Unlike ``Trainer(max_time=...)``, which is a budget of all starts together and ends the training properly.

    Args:
        path: the file.
        every_minutes: time between two writings within an epoch, positive; None for the ends of epochs alone.
        stop_after_minutes: time of this start of the training, positive, from the call of ``fit``; None for no end.

    Raises:
        ValueError: for a time that is not positive; in training, for ``stop_after_minutes`` with a loader that cannot
            go on in the middle of an epoch.
        TimeIsUp: in training, when the time is up and the checkpoint is written.
    """

    def __init__(
        self, path: str | Path, every_minutes: float | None = 10.0, stop_after_minutes: float | None = None
    ) -> None:
        for name, minutes in (("every_minutes", every_minutes), ("stop_after_minutes", stop_after_minutes)):
            if minutes is not None and not minutes > 0:
                raise ValueError(f"{name} must be positive, or null, got {minutes}")
        self.path = Path(path)
        self.every_minutes, self.stop_after_minutes = every_minutes, stop_after_minutes
        self._started = self._saved = monotonic()
        self._saved_step = self._step = 0
        self._writes = self._resumable = True
        self._stepped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = self._saved = monotonic()
        self._writes = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_step = self._step = trainer.global_step
        self._resumable = hasattr(trainer.train_dataloader, "state_dict")
        if self.stop_after_minutes is not None and not self._resumable:
            raise ValueError(
                "stop_after_minutes needs a training loader that can go on in the middle of an epoch, got a "
                f"{type(trainer.train_dataloader).__name__}, which has no state_dict()"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not (self._stepped and self._writes and self._resumable) or something_follows(trainer, batch_idx):
            return
        now = monotonic()
        stop = _exceeds(self.stop_after_minutes, now - self._started)
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        save = stop or ends or _exceeds(self.every_minutes, now - self._saved)
        # The clocks of the processes differ: the first one's counts.
        save, stop = trainer.strategy.broadcast((save, stop))
        if save:
            self._save(trainer)
        if stop:
            rank_zero_info(f"The time is up in epoch {trainer.current_epoch}: go on with ckpt_path={self.path}")
            raise TimeIsUp

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # An epoch that was stopped within is not at its end: what was saved then stands.
        if self._writes and (trainer.is_last_batch or not self._resumable):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            # Gradients that are being accumulated are in no checkpoint.
            if self._writes and self._resumable and self._stepped and trainer.global_step != self._saved_step:
                self._save(trainer)
            if self._writes and self.path.exists():
                rank_zero_info(f"Told to end in epoch {trainer.current_epoch}: go on with ckpt_path={self.path}")
            exception.code = UNFINISHED

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved, self._saved_step = monotonic(), trainer.global_step


def _exceeds(minutes: float | None, seconds: float) -> bool:
    return minutes is not None and seconds >= 60 * minutes


def something_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation or the end of the epoch follows this batch."""
    interval = trainer.val_check_batch
    if trainer.is_last_batch or interval is None:
        return trainer.is_last_batch
    batches = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return (batches + 1) % interval == 0
