"""Callback that ends a diverging training without waiting for the device in every step."""

from math import isfinite
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

# Training batches between two checks of the losses.
LOSSES_AT_ONCE = 50


class DivergenceGuard(Callback):
    """Callback that ends a training with a non-finite loss or weight before it is validated or saved.

    Reading a number from an accelerator waits for all work queued before it. So losses stay on the device and are read
    together: every ``every_n_steps`` batches, before a validation, at the end of an epoch and before a checkpoint is
    written. Before validations and checkpoints the weights are checked too, since the last loss was computed before
    the last step. All processes end together.

    `CertifiedClassifier` adds one to every training.

    Args:
        every_n_steps: training batches between two checks, at least 1.

    Raises:
        ValueError: for ``every_n_steps`` < 1; in training, for a non-finite loss or weight, naming the step.
    """

    def __init__(self, every_n_steps: int = LOSSES_AT_ONCE) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._step = (0, 0)
        self._losses: list[Tensor] = []
        self._steps: list[tuple[int, int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._steps = [], []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = (trainer.current_epoch, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"])
        self._steps.append(self._step)
        if len(self._losses) >= self.every_n_steps:
            self._check_losses(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_losses(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, module: nn.Module) -> None:
        self._check_losses(trainer)
        if not trainer.strategy.reduce_boolean_decision(weights_are_finite(module), all=True):
            raise ValueError(f"the weights are not finite after step {trainer.global_step - 1}: {_ADVICE}")

    def _check_losses(self, trainer: Trainer) -> None:
        losses = torch.stack(self._losses).tolist() if self._losses else []
        bad = [(loss, step) for loss, step in zip(losses, self._steps, strict=True) if not isfinite(loss)]
        self._losses, self._steps = [], []
        if not trainer.strategy.reduce_boolean_decision(not bad, all=True):
            here = (trainer.current_epoch, trainer.global_step - 1)
            loss, (epoch, step) = bad[0] if bad else ("not finite in another process", here)
            raise ValueError(f"the training loss became {loss} in epoch {epoch}, step {step}: {_ADVICE}")


_ADVICE = "try a smaller learning rate (optimizer.lr=...)"


def weights_are_finite(module: nn.Module) -> bool:
    """Return whether all parameters of a module are finite; wait for the device once.

    Example:
        >>> weights_are_finite(nn.Linear(2, 2))
        True
    """
    finite = [parameter.isfinite().all() for parameter in module.parameters()]
    return bool(torch.stack(finite).all()) if finite else True
