"""Slurm's signal to requeue a job, answered where a training can go on from."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lipnet.training.last_checkpoint import something_follows

Handler = Callable[[int, FrameType | None], Any]


class SafeRequeue(Callback):
    """Lets Lightning answer the signal to requeue after an optimizer step, instead of in the middle of one.

    Under Slurm Lightning saves a checkpoint and requeues the job in the handler of a signal, SIGUSR1 unless set
    otherwise, wherever the signal finds the training: between the weights of one layer and the next, too. This keeps
    the signal until the checkpoint is one from which the training goes on exactly, and then calls Lightning's handler.
    With several processes, all of them answer after the same step. SIGTERM is left alone.

    `CertifiedClassifier` brings one along.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._received: set[int] = set()
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._received.clear()
        self._handlers = {number: handler for number in _requeueing() if (handler := _handler_of(number)) is not None}
        for number in self._handlers:
            signal.signal(number, self._keep)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and hasattr(trainer.train_dataloader, "state_dict") and not something_follows(trainer, batch_idx):
            self._answer(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch:
            self._answer(trainer)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)

    def _answer(self, trainer: Trainer) -> None:
        for number, handler in self._handlers.items():
            # A process may have received the signal one step later than another.
            if trainer.strategy.reduce_boolean_decision(number in self._received, all=False):
                self._received.discard(number)
                handler(number, None)


def _requeueing() -> set[signal.Signals]:
    """The signals by which a scheduler may ask for a requeue: not those that end a process."""
    return signal.valid_signals() - {signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP}


def _handler_of(number: signal.Signals) -> Handler | None:
    """The handler of a signal, if it is one of Lightning's."""
    handler = signal.getsignal(number)
    return handler if callable(handler) and type(handler).__module__.startswith("lightning.") else None
