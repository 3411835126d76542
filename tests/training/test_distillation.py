"""Distillation: softened labels, a teacher that stays as it is, exact resumption with the same teacher alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.training import Distillation, LogitAnnealing
from tests.training.runs import Interrupted, KillAfter, assert_same_training, best_checkpoint, fit, make_module

# An optimizer that changes nothing.
STILL = partial(torch.optim.SGD, lr=0.0)


def make_teacher(seed: int = 1) -> nn.Sequential:
    """A network with batch normalisation and dropout, which behave otherwise in training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10))


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("mixed", [False, True], ids=["classes", "probabilities"])
def test_labels_follow_the_formula(weight: float, temperature: float, mixed: bool) -> None:
    teacher, images = make_teacher(), torch.rand(6, 1, 8, 8)
    classes = torch.arange(6)
    labels = torch.rand(6, 10).softmax(dim=1) if mixed else classes
    given = labels.double().numpy() if mixed else np.eye(10)[classes]
    with torch.no_grad():
        taught = softmax(teacher.eval()(images) / temperature)
    softened = Distillation(teacher, weight, temperature).soften(images, labels, classes=10)
    np.testing.assert_allclose(softened.numpy(), (1 - weight) * given + weight * taught, rtol=0, atol=1e-6)
    np.testing.assert_allclose(softened.sum(dim=1).numpy(), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.1}, "weight must be from 0 to 1, got 1.1"),
        ({"weight": -0.1}, "weight must be from 0 to 1, got -0.1"),
        ({"weight": float("nan")}, "weight must be from 0 to 1, got nan"),
        ({"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive and finite, got nan"),
        ({"temperature": float("inf")}, "temperature must be positive and finite, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(make_teacher(), **settings)


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must return logits of shape \(2, 12\), got \(2, 10\)"):
        Distillation(make_teacher()).soften(torch.rand(2, 1, 8, 8), torch.tensor([0, 11]), classes=12)


def test_the_loss_of_a_step_is_that_of_the_softened_labels(tiny_config: dict[str, Any]) -> None:
    distillation = Distillation(make_teacher(), weight=0.7)
    module, plain = make_module(tiny_config, distillation=distillation), make_module(tiny_config)
    images, labels = torch.rand(5, 1, 8, 8), torch.arange(5)
    for each in (module, plain):
        each.log = lambda *_, **__: None
    loss = module.training_step((images, labels), 0)
    torch.testing.assert_close(loss, plain.training_step((images, distillation.soften(images, labels, 10)), 0))
    assert loss != plain.training_step((images, labels), 0)


def test_a_training_leaves_the_teacher_alone_and_validates_on_the_labels(
    tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    teacher = make_teacher()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    module = make_module(tiny_config, distillation=Distillation(teacher, weight=1.0), optimizer=STILL)
    trainer = fit(tiny_config, tmp_path, module=module, max_epochs=1)
    other = fit(tiny_config, tmp_path, module=make_module(tiny_config, optimizer=STILL), max_epochs=1)
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    for name in ("val/loss", "val/accuracy", "train/accuracy"):
        assert trainer.callback_metrics[name] == other.callback_metrics[name]
    assert trainer.callback_metrics["train/loss"] != other.callback_metrics["train/loss"]
    state = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    assert state.keys() == other.lightning_module.state_dict().keys()


def test_a_student_learns_from_the_teacher_alone(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """A teacher that always answers 3 teaches 3, whatever the labels are."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(teacher[1].weight)
    with torch.no_grad():
        teacher[1].bias.copy_(20.0 * torch.eye(10)[3])
    module = make_module(tiny_config, distillation=Distillation(teacher, weight=1.0))
    fit(tiny_config, tmp_path, module=module, max_epochs=1)
    with torch.no_grad():
        assert (module.model.eval()(torch.rand(20, 1, 8, 8)).argmax(dim=1) == 3).all()


def test_a_loss_of_one_correct_class_refuses_softened_labels(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module = make_module(tiny_config, distillation=Distillation(make_teacher()), loss=LogitAnnealing())
    with pytest.raises(ValueError, match="labels"):
        fit(tiny_config, tmp_path, module=module, max_epochs=1)


def settings_of(config: dict[str, Any], folder: Path, teacher: int = 1) -> dict[str, Any]:
    """Settings of a training with checkpoints every five steps and the teacher of this seed."""
    keepers = [best_checkpoint(folder, every_n_train_steps=5, save_top_k=-1)]
    module = make_module(config, distillation=Distillation(make_teacher(teacher)))
    return {"module": module, "callbacks": keepers, "limit_train_batches": 12}


@pytest.fixture
def killed(tmp_path: Path, tiny_config: dict[str, Any]) -> Path:
    """The last checkpoint of a training with a teacher, killed after 17 of 24 steps."""
    settings = settings_of(tiny_config, tmp_path / "killed")
    settings["callbacks"].append(KillAfter(17))
    with pytest.raises(Interrupted):
        fit(tiny_config, tmp_path / "killed", **settings)
    return tmp_path / "killed" / "last.ckpt"


def test_a_training_resumes_exactly_with_the_same_teacher(
    killed: Path, tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    resumed = fit(tiny_config, killed.parent, killed, **settings_of(tiny_config, killed.parent))
    whole = tmp_path / "whole"
    assert_same_training(fit(tiny_config, whole, **settings_of(tiny_config, whole)), resumed)


def test_a_training_does_not_resume_with_another_teacher(killed: Path, tiny_config: dict[str, Any]) -> None:
    settings = settings_of(tiny_config, killed.parent, teacher=2)
    with pytest.raises(ValueError, match=r"got SHA-256 of the teacher's weights: \w+ in the checkpoint, \w+ here"):
        fit(tiny_config, killed.parent, killed, **settings)
