"""LightningModule that trains a 1-Lipschitz classifier and certifies it at every validation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lipnet.certify.arithmetic import ieee_arithmetic
from lipnet.certify.inputs import check_pixels
from lipnet.functional.margins import STANDARD_RADII
from lipnet.layers.estimated import estimated_scales
from lipnet.metrics import CertifiedAccuracy
from lipnet.models import CheckpointError, build_model
from lipnet.models.archive import read_archive
from lipnet.models.checkpoint import DESCRIPTION, describe
from lipnet.models.described import check_described
from lipnet.models.fit import floating_dtype
from lipnet.training.bounded_evaluation import BoundedEvaluation
from lipnet.training.checks import check_accumulation, check_dtypes, check_monitors
from lipnet.training.distillation import Distillation
from lipnet.training.divergence import DivergenceGuard
from lipnet.training.emma import EMMA
from lipnet.training.equal_processes import EqualProcesses
from lipnet.training.length import length_for, progress_of
from lipnet.training.losses import LipschitzLoss, nominal_lipschitz_constant, row_distances_of
from lipnet.training.optimizers import ModuleOptimizer
from lipnet.training.patch_fitting import FitPatchRotation
from lipnet.training.random_states import RandomStates
from lipnet.training.requeue import RequeueRequests, SafeRequeue
from lipnet.training.resumption import ExactResumption
from lipnet.training.schedules import PerStepSchedule

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of ``torch.compile``."""


class Prediction(NamedTuple):
    """Predicted classes (B,) and certified L2 radii (B,), float64, of a batch. The radii ignore rounding."""

    prediction: Tensor
    radius: Tensor


def certified_accuracy_key(radius: str, stage: str = "val") -> str:
    """Return the name under which the certified accuracy at a radius is logged, such as val/certified_36_255."""
    return f"{stage}/certified_{radius.replace('/', '_').replace('.', '_')}"


class CertifiedClassifier(LightningModule):
    """LightningModule that trains, validates and tests a 1-Lipschitz classifier.

    It logs ``train/loss``, ``train/accuracy``, ``val/loss``, ``val/accuracy``, ``val/lipschitz_estimate`` and, for each
    radius, ``val/certified_36_255`` and so on (L2, pixels in [0, 1]). Validation uses estimates of the scales and of
    the Lipschitz constant, because proofs would take longer than many training steps. ``trainer.test`` logs the same
    figures with proven bounds as ``test/...``, with ``test/lipschitz_bound`` in place of the estimate.
    ``trainer.predict`` returns a `Prediction` for each batch. All these radii ignore rounding; ``certify.py`` writes
    the certificates. Evaluation refuses images with pixels outside [0, 1], in which radii are measured: normalise them
    in the model, for example by `lipnet.layers.Normalize`.

    Training runs in the trainer's precision, with parameters in float32 or float64. Evaluation always runs in the
    precision of the parameters with IEEE arithmetic, without autocast or TF32. Every training has a `DivergenceGuard`,
    an `ExactResumption` with `RandomStates`, a `SafeRequeue` with `RequeueRequests`, a `FitPatchRotation` and an
    `EqualProcesses`.

    Args:
        model: the network, or its configuration: plain containers with ``_target_`` (see `lipnet.models.build_model`).
            Checkpoints of a configuration describe themselves, so that ``certify.py`` can read them.
        dataset: description of the data for the checkpoints: ``name`` and the settings of the split, as
            ``data.description()`` returns them. Without it, ``certify.py`` refuses the checkpoints.
        num_classes: number of classes, to check labels in validation; None does not check them.
        loss: maps logits (B, C) and labels, classes (B,) or probabilities (B, C), to a scalar; default: cross-entropy.
            A `LipschitzLoss` gets the row distances of the network's head and, if it has no constant,
            `nominal_lipschitz_constant`.
        distillation: softens the labels of training steps, not those of evaluation; the loss must take probabilities.
        optimizer: a function from parameters to the optimizer, or a `ModuleOptimizer`; default: SGD with learning rate
            0.1 and momentum 0.9. Matrices on the manifold take Riemannian steps in either case.
        scheduler: a function from the optimizer to the schedule, stepped once an epoch; or a `PerStepSchedule`, stepped
            after every optimizer step; None for a constant learning rate.
        radii: radii at which evaluation certifies, as text.
        compile_mode: mode of ``torch.compile`` for the training steps, with one graph per batch size; None does not
            compile. Evaluation is never compiled.
        trust: packages besides lipnet and torch.nn whose modules ``model`` may name.

    Raises:
        ValueError: for a configuration that `build_model` refuses, for an unknown mode, and for radii that would be
            logged under one name, such as 1/5 and 1.5. In training: the loss or a weight is not finite, parameters
            are not in float32 or float64, a schedule does not know the number of steps or the time, a checkpoint
            callback monitors a radius that is not logged, or gradients are accumulated in memory that a CUDA graph
            overwrites. In evaluation: pixels outside [0, 1], a subclass that overrides ``forward``, and, in test and
            prediction, a network that computes something else than its modules do one after another.
        RuntimeError: if the network is changed during an evaluation.
    """

    description: dict[str, Any] | None

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        dataset: Mapping[str, Any] | None = None,
        *,
        num_classes: int | None = None,
        loss: nn.Module | None = None,
        distillation: Distillation | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | ModuleOptimizer | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | PerStepSchedule | None = None,
        radii: Sequence[str] = STANDARD_RADII,
        compile_mode: str | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if compile_mode is not None and compile_mode not in COMPILE_MODES:
            raise ValueError(f"compile must be one of {COMPILE_MODES} or null, got {compile_mode!r}")
        self.compile_mode, self.trust = compile_mode, trust
        self._compiled: Callable[[Tensor], Tensor] | None = None
        if isinstance(model, nn.Module):
            self.model, self.description = model, None
        else:
            self.model = build_model(model, trust)
            self.description = describe(model, dataset or {"name": "unknown"})
        loss = nn.CrossEntropyLoss() if loss is None else loss
        if isinstance(loss, LipschitzLoss):
            loss = loss.for_network(nominal_lipschitz_constant(self.model), row_distances_of(self.model))
        self.loss, self.distillation = loss, distillation
        self._progress: Callable[[], float] | None = None
        make = partial(SGD, lr=0.1, momentum=0.9) if optimizer is None else optimizer
        self._make_optimizer = make if isinstance(make, ModuleOptimizer) else ModuleOptimizer(make)
        self._make_scheduler = scheduler
        # Validating the arguments' values would wait for the device in every step.
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_loss = MeanMetric()
        self.certified_accuracy = CertifiedAccuracy(radii)
        names = [certified_accuracy_key(radius) for radius in self.certified_accuracy.radii]
        if len(set(names)) < len(names):
            raise ValueError(f"radii must be logged under different names, got {', '.join(names)}")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images) if self._compiled is None else self._compiled(images)
        if isinstance(self.loss, EMMA) and self._progress is not None:
            self.loss.progress = self._progress()
        targets = labels
        if self.distillation is not None:
            targets = self.distillation.soften(images, labels, logits.shape[1])
        loss: Tensor = self.loss(logits, targets)
        # A mixed label counts as the class with the largest share.
        self.train_accuracy.update(logits, labels if labels.dim() == 1 else labels.argmax(dim=1))
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def on_train_start(self) -> None:
        self._progress = progress_of(self.trainer) if isinstance(self.loss, EMMA) else None

    def on_train_epoch_end(self) -> None:
        # Log a number, not the metric. Computing a metric is a collective operation, which the progress bar would start
        # in the first process alone.
        self.log("train/accuracy", self.train_accuracy.compute(), sync_dist=True)

    def _begin_evaluation(self, estimate: bool = False) -> None:
        if type(self).forward is not CertifiedClassifier.forward:
            raise ValueError(
                f"{type(self).__name__} overrides forward, and the bounds are those of its model: change the model"
            )
        self._evaluation = BoundedEvaluation(self.model, estimate=estimate)

    def on_validation_epoch_start(self, estimate: bool = True) -> None:
        self._begin_evaluation(estimate)
        # Reset here: states that are reset under the inference mode of `trainer.validate` cannot be updated in `fit`.
        for metric in (self.certified_accuracy, self.val_loss, self.val_accuracy):
            metric.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        with estimated_scales(self.model):
            self.test_step(batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        check_pixels(images)
        with ieee_arithmetic(self.device):
            logits = self.model(images)
            loss = self.loss(logits, labels)
        prediction, radius = self._evaluation.bounds.certified_radius(logits)
        self.certified_accuracy.update(radius, prediction == labels)
        self.val_accuracy.update(logits, labels)
        self.val_loss.update(loss, weight=len(labels))

    def on_validation_epoch_end(self, stage: str = "val") -> None:
        self._evaluation.check_unchanged(self.model)
        certified = self.certified_accuracy.named()
        figures = {certified_accuracy_key(radius, stage): value for radius, value in certified.items()}
        shown = next(iter(figures))
        # Metrics synchronise themselves: sync_dist averages equal numbers.
        self.log(shown, figures.pop(shown), prog_bar=True, sync_dist=True)
        name = "lipschitz_estimate" if stage == "val" else "lipschitz_bound"
        self.log_dict({**figures, f"{stage}/{name}": self._evaluation.bounds.lipschitz}, sync_dist=True)
        self.log(f"{stage}/accuracy", self.val_accuracy.compute(), prog_bar=True, sync_dist=True)
        self.log(f"{stage}/loss", self.val_loss.compute(), sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start(estimate=False)

    def on_test_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluation.check_order(self.model, batch[0])

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end("test")

    def on_predict_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_predict_epoch_end(self) -> None:
        self._evaluation.check_unchanged(self.model)

    def predict_step(self, batch: Tensor | Sequence[Tensor], batch_idx: int) -> Prediction:
        images = batch if isinstance(batch, Tensor) else batch[0]
        self._evaluation.check_order(self.model, images)
        check_pixels(images)
        with ieee_arithmetic(self.device):
            return Prediction(*self._evaluation.bounds.certified_radius(self.model(images)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self._make_optimizer(self)
        schedule = self._make_scheduler
        if schedule is None:
            return optimizer
        if isinstance(schedule, PerStepSchedule):
            stepped = schedule(optimizer, length_for(schedule, self.trainer))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": stepped, "interval": "step"}}
        return {"optimizer": optimizer, "lr_scheduler": schedule(optimizer)}

    def configure_callbacks(self) -> list[Callback]:
        requeue = SafeRequeue()
        kept = [DivergenceGuard(), ExactResumption(self.train_accuracy), requeue, FitPatchRotation(), RandomStates()]
        return [EqualProcesses(self.description), *kept, RequeueRequests(requeue)]

    def on_fit_start(self) -> None:
        check_dtypes(self)
        if self.distillation is not None:
            self.distillation.teacher.to(self.device)
        self._check_described()
        check_accumulation(self.trainer, self.compile_mode)
        check_monitors(self.trainer, [certified_accuracy_key(radius) for radius in self.certified_accuracy.radii])
        if self.compile_mode is not None:
            # Forget the graphs of earlier trainings: torch.compile refuses a ninth, and a sweep is one process.
            torch.compiler.reset()
            # Compile the method: a compiled module would be registered as a second copy of all weights.
            self._compiled = torch.compile(self.forward, mode=self.compile_mode, fullgraph=True, dynamic=False)

    def on_fit_end(self) -> None:
        self._compiled = self._progress = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.description is not None:
            self._check_described()
            checkpoint[DESCRIPTION] = self.description

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning converts the network to the trainer's precision after it has loaded, and so rounded, the weights.
        if self._trainer is not None:
            self.trainer.precision_plugin.convert_module(self.model)

    def _check_described(self) -> None:
        """Raise ValueError if a checkpoint's configuration would describe another network than this one."""
        if self.description is not None:
            check_described(self.model, self.description["model"], self.trust)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        *,
        model: nn.Module | None = None,
        **settings: Any,
    ) -> Self:
        """Rebuild the module from a checkpoint, in its dtype, without executing anything from the file.

        Args:
            checkpoint_path: a checkpoint of a training or of `lipnet.models.save_checkpoint`.
            map_location: device of the module.
            model: the network that the weights belong to, if the checkpoint does not describe it.
            settings: arguments of the class that checkpoints do not hold: ``loss``, ``optimizer``, ``trust``, ...

        Raises:
            FileNotFoundError: for a missing checkpoint.
            CheckpointError: for a damaged checkpoint, for weights that do not fit ``model``, and for a checkpoint that
                does not describe its network if ``model`` is None.
        """
        content, _ = read_archive(checkpoint_path)
        if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
            found = type(content).__name__
            raise CheckpointError(f"{checkpoint_path} must hold a state_dict with the module's weights, got {found}")
        described: Any = content.get(DESCRIPTION)
        if model is None and described is None:
            raise CheckpointError(f"{checkpoint_path} does not describe its network: pass model=...")
        dataset = None if described is None else described["dataset"]
        module, state = cls(described["model"] if model is None else model, dataset, **settings), content["state_dict"]
        network = {name: value for name, value in state.items() if name.startswith("model.")}
        try:
            # Otherwise loading would round the weights to the module's dtype.
            module.model.to(floating_dtype(network))
            module.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path}: the weights do not fit the network: {error}") from error
        return module if map_location is None else module.to(map_location)
