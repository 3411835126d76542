"""Callback that keeps the checkpoint to resume from, and stops a training in time."""

from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

UNFINISHED = 75
"""Exit status of a training that was stopped early and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class TimeIsUp(SystemExit):
    """Exit with status `UNFINISHED` because the time of this start is up."""

    def __init__(self) -> None:
        super().__init__(UNFINISHED)


class LastCheckpoint(Checkpoint):
    """Callback that keeps one checkpoint of the latest state, from which a training resumes exactly.

    It is written at the end of every epoch, every ``every_minutes`` minutes within an epoch, when the time of this
    start is up, and on SIGTERM, whose moment `SafeRequeue` chooses. Within an epoch it is written right after an
    optimizer step, and only if the training loader can continue from there (the loaders of `lipnet.data` can). Where a
    validation or the end of the epoch follows the step, it is written afterwards, because a resumed training would skip
    these. List it after the callbacks that choose the best checkpoint, whose scores it saves.

    After ``stop_after_minutes`` the program ends with exit status 75, also in the middle of the epoch. It does not
    validate or certify at this point, because an uninterrupted training would not either. A training that ends at this
    step is completed. A resumed training has the same time again. ``Trainer(max_time=...)``, in contrast, is a budget
    for all starts together, and completes the training.

    Args:
        path: file of the checkpoint.
        every_minutes: time between two checkpoints within an epoch, positive; None writes at epoch ends only.
        stop_after_minutes: time of this start from the call of ``fit``, positive; None for no limit.

    Raises:
        ValueError: for a time that is not positive; in training, for ``stop_after_minutes`` with a loader that cannot
            continue in the middle of an epoch.
        TimeIsUp: in training, when the time is up and the checkpoint is written.
    """

    def __init__(
        self, path: str | Path, every_minutes: float | None = 10.0, stop_after_minutes: float | None = None
    ) -> None:
        for name, minutes in (("every_minutes", every_minutes), ("stop_after_minutes", stop_after_minutes)):
            if minutes is not None and not minutes > 0:
                raise ValueError(f"{name} must be positive or null, got {minutes}")
        self.path = Path(path)
        self.every_minutes, self.stop_after_minutes = every_minutes, stop_after_minutes
        self._started = self._saved = monotonic()
        self._step = 0
        self._writes = self._resumable = True
        self._stepped = self._stopping = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = self._saved = monotonic()
        self._stepped = self._stopping = False
        self._writes = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._resumable = can_continue(trainer)
        if self.stop_after_minutes is not None and not self._resumable:
            raise ValueError(
                "stop_after_minutes needs a training loader that can continue in the middle of an epoch, got a "
                f"{type(trainer.train_dataloader).__name__} that cannot"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The checkpoint of the end of the last epoch is written, and Lightning has logged the epoch's figures since.
        if self._stepped and self._writes and trainer.strategy.broadcast(self._is_time_up()):
            self._stop(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Lightning has logged the figures of the last step since its checkpoint was written.
        if self._stopping:
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if not something_follows(trainer, batch_idx):
            self._keep(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # If a training ends with a validation in the middle of an epoch, this is the last hook that Lightning calls.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.is_last_batch:
            self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # An epoch that was stopped in the middle is not complete: keep the checkpoint of that moment.
        if self._writes and (trainer.is_last_batch or not self._resumable):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and self._writes and self.path.exists():
            rank_zero_info(f"Told to end in epoch {trainer.current_epoch}: resume with ckpt_path={self.path}")
            exception.code = UNFINISHED

    def _keep(self, trainer: Trainer) -> None:
        """Save the state in the middle of an epoch, and stop the training, if it is time and a step is complete."""
        if not (self._stepped and self._writes and self._resumable):
            return
        ending = is_ending(trainer)
        stop = self._is_time_up() and not ending
        save = stop or ending or trainer.received_sigterm or _exceeds(self.every_minutes, monotonic() - self._saved)
        # Clocks differ: the first process decides.
        save, stop = trainer.strategy.broadcast((save, stop))
        if save:
            self._save(trainer)
        self._stopping = stop

    def _is_time_up(self) -> bool:
        return _exceeds(self.stop_after_minutes, monotonic() - self._started)

    def _stop(self, trainer: Trainer) -> NoReturn:
        rank_zero_info(f"The time is up in epoch {trainer.current_epoch}: resume with ckpt_path={self.path}")
        _write_figures(trainer)
        raise TimeIsUp

    def _save(self, trainer: Trainer) -> None:
        # After a kill, the resumed run logs later steps only: write the metrics of the earlier ones now.
        _write_figures(trainer)
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = monotonic()


def _write_figures(trainer: Trainer) -> None:
    for logger in trainer.loggers:
        logger.save()


def can_continue(trainer: Trainer) -> bool:
    """Return whether the training loader can continue in the middle of an epoch, as it says itself if it may not."""
    loader = trainer.train_dataloader
    return bool(getattr(loader, "continues_epochs", hasattr(loader, "state_dict")))


def is_ending(trainer: Trainer) -> bool:
    """Return whether the training ends with this batch, because of its steps, its time, or another callback."""
    # `min_epochs` and `min_steps` make Lightning train on.
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or trainer.global_step == trainer.max_steps


def _exceeds(minutes: float | None, seconds: float) -> bool:
    return minutes is not None and seconds >= 60 * minutes


def something_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a validation or the end of the epoch follows this batch."""
    interval = trainer.val_check_batch
    if trainer.is_last_batch or interval is None or not trainer.fit_loop.epoch_loop._should_check_val_epoch():
        return trainer.is_last_batch
    batches = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return (batches + 1) % interval == 0
