"""Callbacks that handle signals at points from which a training can be resumed."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lipnet.training.last_checkpoint import can_continue, is_ending, something_follows

Handler = Callable[[int, FrameType | None], Any]

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a training that SIGTERM ended and that cannot be resumed, as a shell reports it."""


class SafeRequeue(Callback):
    """Callback that delays signals, and the end of a training, until it can be resumed exactly from its state.

    Under Slurm, Lightning saves a checkpoint and requeues the job inside the handler of a signal (SIGUSR1 by default),
    even between the updates of two layers. This callback keeps the signal until an optimizer step is complete, and the
    validation that follows it. `RequeueRequests` then calls Lightning's handler. With several processes, all of them
    answer after the same step.

    SIGTERM waits for the step too, because accumulated gradients are in no checkpoint, and for the end of a running
    validation, which a resumed training would skip. A loader that cannot continue within an epoch does not wait for the
    step. `LastCheckpoint` saves the state at this point, and the training ends. Without a checkpoint of it, the exit
    status is 143.

    For the same reason, a training that ends within an epoch, by its time or by another callback, completes the step
    first.

    `CertifiedClassifier` adds both callbacks to every training.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._received: set[int] = set()
        self._step = 0
        self._started = self._stepped = self._stops = False

    @property
    def waiting(self) -> set[int]:
        """The signals that were received and are not answered yet."""
        return set(self._received)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._received, self._started = set(), False
        connector: Any = trainer._signal_connector
        requeue = type(connector)._slurm_sigusr_handler_fn

        def requeue_later(number: int, frame: FrameType | None) -> None:
            # Lightning registers it right after this hook. The loader has no position until the training starts.
            if self._started:
                requeue(connector, number, frame)
            else:
                self._received.add(number)

        connector._slurm_sigusr_handler_fn = requeue_later

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._stepped, self._stops = trainer.global_step, False, False
        # Signals since the start of the program wait, too.
        connector = trainer._signal_connector
        if connector.received_sigterm:
            self._received.add(signal.SIGTERM)
        connector.received_sigterm = False
        # A scheduler may ask for a requeue by any signal that does not end a process.
        signals = signal.valid_signals() - {signal.SIGINT, signal.SIGKILL, signal.SIGSTOP}
        self._handlers = {number: handler for number in signals if (handler := _handler_of(number))}
        if trainer.world_size > 1:
            # Lightning's handler of SIGTERM starts a collective operation at once, even in the middle of another one,
            # and the processes then wait for each other for ever. Do the rest of it: the loops look at this attribute
            # after the callbacks, and raise SIGTERMException in every process.
            self._handlers[signal.SIGTERM] = lambda *_: setattr(connector, "received_sigterm", True)
        for number in self._handlers:
            signal.signal(number, lambda received, frame: self._receive(trainer, received))
        self._started = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepped, self._step = trainer.global_step != self._step, trainer.global_step
        self._stops = self._stops or trainer.should_stop
        trainer.should_stop = self._stops and (self._stepped or trainer.is_last_batch)
        # A training that is ending validates first.
        if something_follows(trainer, batch_idx) or is_ending(trainer):
            return
        if self._stepped or not can_continue(trainer):
            self._answer(trainer, signal.SIGTERM)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        within_epoch = trainer.state.fn == TrainerFn.FITTING and not (trainer.is_last_batch or is_ending(trainer))
        if within_epoch and self._stepped:
            self._answer(trainer, signal.SIGTERM)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._answer(trainer, signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning looks for a SIGTERM no more.
        self._answer(trainer, signal.SIGTERM)
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Lightning's exception has no exit status, which would mean success. `LastCheckpoint`, which Lightning calls
        # later, replaces this one.
        if isinstance(exception, SIGTERMException):
            exception.code = TERMINATED

    def answer_requests(self, trainer: Trainer) -> None:
        """Requeue the job if a signal has asked for it, and the epoch or a step in it is complete."""
        if trainer.is_last_batch or (self._stepped and can_continue(trainer)):
            for number in sorted(self._handlers.keys() - {signal.SIGTERM}):
                self._answer(trainer, number)

    def _receive(self, trainer: Trainer, number: int) -> None:
        launcher = trainer.strategy.launcher
        if number == signal.SIGTERM and number not in self._received and launcher is not None:
            # Pass the signal on to the processes that this one has started.
            launcher.kill(signal.SIGTERM)
        self._received.add(number)

    def _answer(self, trainer: Trainer, number: int) -> None:
        # Another process may have received the signal one step earlier.
        if number in self._handlers and trainer.strategy.reduce_boolean_decision(number in self._received, all=False):
            self._received.discard(number)
            self._handlers[number](number, None)


class RequeueRequests(Checkpoint):
    """Callback that answers the requests for a requeue that `SafeRequeue` has received.

    A requeue saves the state at once. Lightning calls this callback after those that choose the best checkpoint, so the
    state has the score of the validation before it.

    Args:
        requeue: the callback that receives the requests.
    """

    def __init__(self, requeue: SafeRequeue) -> None:
        self._requeue = requeue

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not something_follows(trainer, batch_idx):
            self._requeue.answer_requests(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.is_last_batch:
            self._requeue.answer_requests(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_last_batch:
            self._requeue.answer_requests(trainer)


def _handler_of(number: signal.Signals) -> Handler | None:
    """Return the handler of a signal if Lightning installed it."""
    handler = signal.getsignal(number)
    return handler if callable(handler) and type(handler).__module__.startswith("lightning.") else None
