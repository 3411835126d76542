"""Callback that handles signals at points from which a training can be resumed."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lipnet.training.last_checkpoint import something_follows

Handler = Callable[[int, FrameType | None], Any]


class SafeRequeue(Callback):
    """Delays Lightning's signal handlers until the training can be resumed exactly from its state.

    Under Slurm, Lightning saves a checkpoint and requeues the job inside the handler of a signal (SIGUSR1 by default),
    even between the updates of two layers. This callback keeps the signal until an optimizer step is complete, then
    calls Lightning's handler. With several processes, all of them answer after the same step.

    With several processes, SIGTERM is delayed too. Lightning's handler starts a collective operation at once, even in
    the middle of another one, and the processes then wait for each other for ever. A single process leaves SIGTERM to
    Lightning.

    `CertifiedClassifier` adds one to every training.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._received: set[int] = set()
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._received.clear()
        # A scheduler may ask for a requeue by any signal that does not end a process.
        requests = signal.valid_signals() - {signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP}
        self._handlers = {number: handler for number in requests if (handler := _handler_of(number))}
        if trainer.world_size > 1:
            # Do what Lightning's handler does, without its collective operation: the loops look at this attribute
            # after the callbacks, and raise SIGTERMException in every process.
            connector = trainer._signal_connector
            self._handlers[signal.SIGTERM] = lambda *_: setattr(connector, "received_sigterm", True)
        for number in self._handlers:
            signal.signal(number, lambda received, frame: self._receive(trainer, received))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if something_follows(trainer, batch_idx):
            return
        if signal.SIGTERM in self._handlers:
            self._answer(trainer, signal.SIGTERM)
        if stepped and hasattr(trainer.train_dataloader, "state_dict"):
            self._answer_all(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch:
            self._answer_all(trainer)

    def _receive(self, trainer: Trainer, number: int) -> None:
        launcher = trainer.strategy.launcher
        if number == signal.SIGTERM and number not in self._received and launcher is not None:
            # Pass the signal on to the processes that this one has started.
            launcher.kill(signal.SIGTERM)
        self._received.add(number)

    def _answer_all(self, trainer: Trainer) -> None:
        for number in sorted(self._handlers):
            self._answer(trainer, number)

    def _answer(self, trainer: Trainer, number: int) -> None:
        # Another process may have received the signal one step earlier.
        if trainer.strategy.reduce_boolean_decision(number in self._received, all=False):
            self._received.discard(number)
            self._handlers[number](number, None)


def _handler_of(number: signal.Signals) -> Handler | None:
    """Return the handler of a signal if Lightning installed it."""
    handler = signal.getsignal(number)
    return handler if callable(handler) and type(handler).__module__.startswith("lightning.") else None
