"""The LightningModule: one training of a 1-Lipschitz classifier, with certified accuracy at every validation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, prod
from typing import Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lipnet.certify import logit_bounds
from lipnet.certify.arithmetic import ieee_arithmetic
from lipnet.functional.margins import STANDARD_RADII
from lipnet.layers import Normalize
from lipnet.metrics import CertifiedAccuracy
from lipnet.models import build_model
from lipnet.models.checkpoint import DESCRIPTION, describe
from lipnet.training.divergence import DivergenceGuard
from lipnet.training.losses import LipschitzLoss
from lipnet.training.requeue import SafeRequeue
from lipnet.training.resumption import ExactResumption
from lipnet.training.schedules import PerStepSchedule
from lipnet.training.timed_schedules import TimedSchedule, fraction_of_time

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""The modes of ``torch.compile``."""
_GRAPHS_OF_LAUNCHES = ("reduce-overhead", "max-autotune")


def certified_accuracy_key(radius: str) -> str:
    """The name under which the validation's certified accuracy at a radius is logged: val/certified_36_255."""
    return f"val/certified_{radius.replace('/', '_').replace('.', '_')}"


def nominal_lipschitz_constant(model: nn.Module) -> float:
    """The Lipschitz constant from pixels to logits if all layers but the normalisation are 1-Lipschitz.

    What a loss measures margins by; no bound, and nothing is certified with it.
    """
    return prod(module.lipschitz_bound() for module in model.modules() if isinstance(module, Normalize))


def row_distances_of(model: nn.Module) -> Callable[[], Tensor] | None:
    """The method ``row_distances`` of a model's last module, if that is a head that has one; None otherwise."""
    last = model
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    method: Callable[[], Tensor] | None = getattr(last, "row_distances", None)
    return method


class CertifiedClassifier(LightningModule):
    """Trains a 1-Lipschitz network; its checkpoints describe themselves.

    Logged: ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``val/lipschitz_bound`` and, for each
    radius, ``val/certified_36_255`` and so on (L2, pixels in [0, 1]).

    Training runs in whatever precision the trainer has, with parameters in float32 or float64; validation always in
    the precision of the parameters and IEEE arithmetic, without autocast or TF32. A `DivergenceGuard`, an
    `ExactResumption` and a `SafeRequeue` are part of every training.

    Args:
        model: configuration of the network, plain containers with ``_target_`` (see `lipnet.models.build_model`).
        dataset: what checkpoints say of the data: ``name`` and the settings of its split.
        num_classes: number of classes.
        loss: from logits (B, C) and labels, classes (B,) or probabilities (B, C), to a scalar. A `LipschitzLoss` that
            states no constant gets the network's nominal one, that of its normalisation: its layers are taken for
            1-Lipschitz, in the loss alone. With a head of normalised rows it measures radii by their distances.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the schedule from the optimizer, and is stepped once an epoch; or a `PerStepSchedule` or
            `TimedSchedule`, stepped after every optimizer step; None for a constant rate.
        radii: the radii at which validation certifies, by their text.
        compile_mode: a mode of ``torch.compile`` for the network's training steps, each as one graph for each size of a
            batch; None does not compile. Validation is never compiled.

    Raises:
        ValueError: for a model's configuration that `build_model` refuses, and for another mode; in training, if the
            loss is not finite, if parameters are in half precision, if a schedule cannot know the number of steps or
            the time, or if gradients are to be accumulated in memory that a graph of launches writes anew.
    """

    description: dict[str, Any]

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        dataset: Mapping[str, Any],
        num_classes: int,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | PerStepSchedule | TimedSchedule | None = None,
        radii: Sequence[str] = STANDARD_RADII,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        if compile_mode is not None and compile_mode not in COMPILE_MODES:
            raise ValueError(f"compile must be one of {COMPILE_MODES} or null, got {compile_mode!r}")
        self.compile_mode = compile_mode
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.description = describe(model, dataset)
        self.model = build_model(model)
        if isinstance(loss, LipschitzLoss):
            loss = loss.for_network(nominal_lipschitz_constant(self.model), row_distances_of(self.model))
        self.loss = loss
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        # Checking its arguments' values would wait for the device in every step.
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_loss = MeanMetric()
        self.certified_accuracy = CertifiedAccuracy(radii)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def configure_callbacks(self) -> list[Callback]:
        return [DivergenceGuard(), ExactResumption(self.train_accuracy), SafeRequeue()]

    def on_fit_start(self) -> None:
        dtypes = {parameter.dtype for parameter in self.parameters()} - {torch.float32, torch.float64}
        if dtypes:
            raise ValueError(
                f"training needs parameters in float32 or float64, got {', '.join(map(str, dtypes))}: "
                "trainer.precision=bf16-mixed computes in bfloat16 and keeps them in float32"
            )
        accumulated = self.trainer.accumulate_grad_batches
        if self.compile_mode in _GRAPHS_OF_LAUNCHES and accumulated > 1:
            raise ValueError(
                f"compile={self.compile_mode} writes each batch's gradients into the same memory, and "
                f"trainer.accumulate_grad_batches={accumulated} would add them up there: set compile=default"
            )
        if self.compile_mode is not None:
            # A method, as a compiled module would become a part of this one, with all weights once more.
            self._compiled = torch.compile(self.forward, mode=self.compile_mode, fullgraph=True, dynamic=False)

    def on_fit_end(self) -> None:
        self._compiled = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images) if self._compiled is None else self._compiled(images)
        loss: Tensor = self.loss(logits, labels)
        # Of a mixed label, the largest share counts.
        self.train_accuracy.update(logits, labels if labels.dim() == 1 else labels.argmax(dim=1))
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._bounds = logit_bounds(self.model)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        # Radii are compared in full precision, whatever the precision of training.
        with ieee_arithmetic(self.device):
            logits = self(images)
            loss = self.loss(logits, labels)
        prediction, radius = self._bounds.certified_radius(logits)
        self.certified_accuracy.update(radius, prediction == labels)
        self.val_accuracy.update(logits, labels)
        self.val_loss.update(loss, weight=len(labels))

    def on_validation_epoch_end(self) -> None:
        figures = {certified_accuracy_key(radius): value for radius, value in self.certified_accuracy.named().items()}
        figures["val/lipschitz_bound"] = self._bounds.lipschitz
        # The metrics have brought the processes' counts together: what is averaged here are equal numbers.
        self.log_dict(figures, sync_dist=True)
        self.log("val/accuracy", self.val_accuracy.compute(), prog_bar=True, sync_dist=True)
        self.log("val/loss", self.val_loss.compute(), sync_dist=True)
        self.certified_accuracy.reset()
        self.val_loss.reset()
        self.val_accuracy.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._make_optimizer(self.parameters())
        make = self._make_scheduler
        if make is None:
            return optimizer
        if isinstance(make, TimedSchedule):
            return _by_the_step(optimizer, make(optimizer, fraction_of_time(self.trainer)))
        if isinstance(make, PerStepSchedule):
            return _by_the_step(optimizer, make(optimizer, self._total_steps(make)))
        return {"optimizer": optimizer, "lr_scheduler": make(optimizer)}

    def _total_steps(self, schedule: PerStepSchedule) -> int:
        steps = self.trainer.estimated_stepping_batches
        if not 1 <= steps < inf:
            raise ValueError(
                f"{type(schedule).__name__} needs the number of steps of the training, which this trainer does not "
                "know: set trainer.max_epochs or trainer.max_steps, or take scheduler=timed_one_cycle"
            )
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[DESCRIPTION] = self.description


def _by_the_step(optimizer: Optimizer, schedule: LRScheduler) -> OptimizerLRScheduler:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
