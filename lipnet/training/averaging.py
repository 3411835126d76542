"""Callback that keeps an exponential moving average of the weights."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

AVERAGING = "exponential_moving_average"


class ExponentialMovingAverage(Callback):
    r"""Callback that averages the weights exponentially, and validates, saves and certifies the average.

    After optimizer step t = 1, 2, ... with weights :math:`\theta_t`, starting from the initial weights
    :math:`a_0 = \theta_0`:

    .. math:: a_t = d_t\,a_{t-1} + (1 - d_t)\,\theta_t, \qquad d_t = \min\left(d, \frac{1 + t}{10 + t}\right)

    and :math:`d_t = d` without ``warmup``. The parameters of orthogonal layers are averaged, not their matrices, so
    averaged layers are as orthogonal as any others.

    During validation the module has the averaged weights. Checkpoints hold the average as the model's weights, so that
    the selected model is the certified one. For exact resumption they also hold the training weights. After the
    training the module keeps the average. Buffers are not averaged, and belong to the training weights: vectors of
    power iterations, which certification does not read, and running means. Nothing waits for the device. All processes
    have the same average.

    docs/decisions.md says why this is not Lightning's ``WeightAveraging``.

    Args:
        decay: d, in [0, 1).
        warmup: let the decay grow to d, so that short trainings forget their start.

    Raises:
        ValueError: for a decay out of range; on resuming a checkpoint without an average.

    Source: Polyak & Juditsky, SIAM J. Control Optim. 1992; the growing decay follows TensorFlow's
    ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        # Holds the average; while the module has the average, holds the training weights.
        self._stored: dict[str, Tensor] = {}
        self._swapped = self._resumed = False
        self._steps = 0

    def decay_at(self, step: int) -> float:
        """Return d_t after ``step`` = t >= 1 optimizer steps."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed:
            parameters = dict(pl_module.named_parameters())
            self._stored = {name: average.to(parameters[name].device) for name, average in self._stored.items()}
        else:
            self._stored = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
            self._steps = trainer.global_step
        self._swapped = self._resumed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Batches whose gradients are only accumulated do not count.
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        weight = 1 - self.decay_at(self._steps)
        with torch.no_grad():
            for name, parameter in pl_module.named_parameters():
                self._stored[name].lerp_(parameter, weight)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    on_validation_end = on_validation_start

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not `on_train_end`: Lightning skips it if a resumed training has nothing left to do.
        self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        present = {name: state[name] for name in self._stored}
        training, averaged = (self._stored, present) if self._swapped else (present, self._stored)
        # A parameter that two modules share has two names in a state dict, and one among the averages.
        first = {parameter: name for name, parameter in pl_module.named_parameters()}
        names = {name: first[parameter] for name, parameter in pl_module.named_parameters(remove_duplicate=False)}
        checkpoint["state_dict"] = {**state, **{name: averaged[own] for name, own in names.items()}}
        checkpoint[AVERAGING] = {"steps": self._steps, "training_weights": training}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if AVERAGING not in checkpoint:
            raise ValueError(
                "the checkpoint was trained without an average of the weights: resume without callbacks=ema"
            )
        averaging = checkpoint[AVERAGING]
        self._steps = averaging["steps"]
        self._stored = {name: checkpoint["state_dict"][name].clone() for name in averaging["training_weights"]}
        with torch.no_grad():
            for name, parameter in pl_module.named_parameters():
                parameter.copy_(averaging["training_weights"][name])
        self._resumed = True

    def _swap(self, module: LightningModule) -> None:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                other = self._stored[name].clone()
                self._stored[name].copy_(parameter)
                parameter.copy_(other)
        self._swapped = not self._swapped
