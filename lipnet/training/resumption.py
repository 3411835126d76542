"""What a resumed training needs to be the one that was not interrupted, beyond what Lightning restores."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from lipnet.training.averaging import AVERAGING, ExponentialMovingAverage

_COUNTS = "train_accuracy"


class ExactResumption(Callback):
    """Resumes in the middle of an epoch exactly, or refuses to.

    Lightning restores weights, optimizer, schedules and how far each loop was. This restores what else there is:
    the position of the training loader, if it has the interface of a stateful loader
    (``state_dict`` and ``load_state_dict``), and what the metric of the training accuracy has counted in the epoch.

    `CertifiedClassifier` brings one along.

    Args:
        train_accuracy: the metric, reset at the start of every epoch.

    Raises:
        ValueError: in resuming, for a checkpoint of the middle of an epoch with a loader that cannot go on from there,
            and for a checkpoint of averaged weights without `ExponentialMovingAverage`.
    """

    def __init__(self, train_accuracy: Metric) -> None:
        self.train_accuracy = train_accuracy
        self._positions: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        positions, self._positions = self._positions, []
        loader: Any = trainer.train_dataloader
        if positions and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(positions[0])
        elif trainer.fit_loop.restarted_mid_epoch and not trainer.is_last_batch:
            raise ValueError(
                f"the checkpoint is of the middle of an epoch, from which {type(loader).__name__} cannot go on: resume "
                "from a checkpoint of an epoch's end"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not called where an epoch goes on.
        self.train_accuracy.reset()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        with self.train_accuracy.sync_context():
            counts = self.train_accuracy.metric_state.items()
            checkpoint[_COUNTS] = {name: count.clone() for name, count in counts if isinstance(count, Tensor)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        averages = any(isinstance(callback, ExponentialMovingAverage) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if AVERAGING in checkpoint and not averages:
            raise ValueError("the checkpoint holds averaged weights: resume with callbacks=[default,ema]")
        # Lightning would forget the positions where it has made its loaders already, as a schedule that asks for the
        # number of steps makes it do.
        loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._positions = loop.pop("combined_loader", [])
        # The counts are those of all processes together.
        if trainer.is_global_zero:
            for name, count in checkpoint.get(_COUNTS, {}).items():
                setattr(self.train_accuracy, name, count.to(self.train_accuracy.device))
