"""Refuse a training whose processes differ in their settings or weights."""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lipnet.functional.digest import tensors_sha256
from lipnet.training.differences import differences
from lipnet.training.kept_facts import extra_images


class EqualProcesses(Callback):
    """Callback that compares a training's processes: descriptions, extra images, and weights before the first step.

    A launcher such as torchrun starts each process by itself, with its own arguments and files. Distributed training
    averages gradients alone, so the weights of unequal processes would drift apart, and one of them would be saved.

    `CertifiedClassifier` adds one to every training.

    Args:
        description: of the network and its data, as `CertifiedClassifier` has it; None if there is none.

    Raises:
        ValueError: in every process, if one differs from the first.
    """

    def __init__(self, description: Mapping[str, Any] | None) -> None:
        self.description = description

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_equal(trainer, {**(self.description or {}), **extra_images(trainer)})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            check_equal(trainer, {"SHA-256 of the weights": tensors_sha256(pl_module.state_dict())})


def check_equal(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Raise ValueError in all processes of a training if the settings of one differ from those of the first."""
    if trainer.world_size == 1:
        return
    first: Mapping[str, Any] = trainer.strategy.broadcast(settings)
    values = differences(first, settings, ("in the first", "here"))
    if trainer.strategy.reduce_boolean_decision(not values):
        return
    raise ValueError(
        f"all processes of a training must have the same settings and weights, got {values or 'others in another one'}"
    )
