"""The LightningModule: one training of a 1-Lipschitz classifier, with certified accuracy at every validation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lipnet.certify import logit_bounds
from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics import CertifiedAccuracy
from lipnet.models import build_model
from lipnet.models.checkpoint import DESCRIPTION, describe


def certified_accuracy_key(radius: str) -> str:
    """The name under which the validation's certified accuracy at a radius is logged: val/certified_36_255."""
    return f"val/certified_{radius.replace('/', '_').replace('.', '_')}"


class CertifiedClassifier(LightningModule):
    """Trains a 1-Lipschitz network; its checkpoints describe themselves.

    Logged: ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``val/lipschitz_bound`` and, for each
    radius, ``val/certified_36_255`` and so on (L2, pixels in [0, 1]).

    Args:
        model: configuration of the network, plain containers with ``_target_`` (see `lipnet.models.build_model`).
        dataset: what checkpoints say of the data: ``name`` and the settings of its split.
        num_classes: number of classes.
        loss: from logits (B, C) and labels (B,) to a scalar.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the schedule, stepped once an epoch, from the optimizer; None for a constant rate.
        radii: the radii at which validation certifies, by their text.

    Raises:
        ValueError: for a model's configuration that `build_model` refuses; in training, if the loss is not finite.
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
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        radii: Sequence[str] = STANDARD_RADII,
    ) -> None:
        super().__init__()
        self.description = describe(model, dataset)
        self.model = build_model(model)
        self.loss = loss
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_loss = MeanMetric()
        self.certified_accuracy = CertifiedAccuracy(radii)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss: Tensor = self.loss(logits, labels)
        if not bool(loss.isfinite()):
            raise ValueError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch}, step {self.global_step}: "
                "try a smaller learning rate (optimizer.lr=...)"
            )
        # Of a mixed label, the largest share counts.
        self.train_accuracy(logits, labels if labels.dim() == 1 else labels.argmax(dim=1))
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._bounds = logit_bounds(self.model)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        # Radii are compared in full precision, whatever the precision of training.
        with torch.autocast(self.device.type, enabled=False):
            logits = self(images)
        prediction, radius = self._bounds.certified_radius(logits)
        self.certified_accuracy.update(radius, prediction == labels)
        self.val_accuracy.update(logits, labels)
        self.val_loss.update(self.loss(logits, labels), weight=len(labels))

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
        if self._make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self._make_scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[DESCRIPTION] = self.description
