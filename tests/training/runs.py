"""Short trainings on the digits, for the tests of this folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lipnet.data import DigitsDataModule
from lipnet.training import CertifiedClassifier, WholeCheckpointIO, step_schedule

RADII = ("36/255", "72/255", "0.02")
DATASET = {"name": "digits", "seed": 0, "validation_fraction": 0.1}


def make_module(config: dict[str, Any], **settings: Any) -> CertifiedClassifier:
    """A module with seeded weights, whose rate falls after the first of two epochs."""
    arguments = {
        "model": config,
        "dataset": DATASET,
        "num_classes": 10,
        "loss": nn.CrossEntropyLoss(),
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "scheduler": partial(step_schedule, total_epochs=2, at=(0.5,)),
        "radii": RADII,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CertifiedClassifier(**{**arguments, **settings})


def best_checkpoint(folder: Path, **settings: Any) -> ModelCheckpoint:
    """Keeps the best and the last checkpoint in a folder."""
    return ModelCheckpoint(dirpath=folder, monitor="val/certified_36_255", mode="max", save_last=True, **settings)


def make_trainer(folder: Path, **settings: Any) -> Trainer:
    """A quiet Trainer on one CPU process that keeps its last checkpoint in a folder."""
    arguments = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [best_checkpoint(folder)],
        "plugins": [WholeCheckpointIO()],
    }
    return Trainer(**{**arguments, **settings})


def fit(
    config: dict[str, Any],
    folder: Path,
    ckpt_path: Path | None = None,
    *,
    data: DigitsDataModule | None = None,
    module: CertifiedClassifier | None = None,
    **settings: Any,
) -> Trainer:
    """A training on the augmented digits, 21 batches an epoch; the Trainer knows the module."""
    data = DigitsDataModule(batch_size=64, eval_batch_size=60) if data is None else data
    trainer = make_trainer(folder, **settings)
    module = make_module(config) if module is None else module
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def validation_images() -> tuple[Tensor, Tensor]:
    images, labels = zip(*DigitsDataModule().evaluation_dataset("validation"), strict=True)
    return torch.stack(images), torch.tensor(labels)


def figures_of(trainer: Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def assert_same_training(one: Trainer, other: Trainer) -> None:
    """Weights, momenta, rates, progress and figures of two trainings are bit for bit the same."""
    assert (one.global_step, one.current_epoch) == (other.global_step, other.current_epoch)
    assert_same_tensors(one.lightning_module.state_dict(), other.lightning_module.state_dict())
    for mine, theirs in zip(one.optimizers, other.optimizers, strict=True):
        assert [group["lr"] for group in mine.param_groups] == [group["lr"] for group in theirs.param_groups]
        states = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert states[0].keys() == states[1].keys()
        for index in states[0]:
            assert_same_tensors(states[0][index], states[1][index])
    assert figures_of(one) == figures_of(other)


def assert_same_tensors(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one if isinstance(one[name], Tensor))


class Interrupted(BaseException):
    """Stand-in for a kill, raised inside the process."""


class KillAfter(Callback):
    """Ends a training without notice once so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise Interrupted
