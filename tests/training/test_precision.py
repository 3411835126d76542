"""Training in bfloat16: parameters, validation and certification stay in full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from lipnet.certify import certify
from lipnet.data import DigitsDataModule
from lipnet.models import load_checkpoint
from tests.training.runs import figures_of, fit, make_module, make_trainer, validation_images


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> Trainer:
    """Two epochs in bfloat16."""
    return fit(tiny_config, tmp_path_factory.mktemp("mixed"), precision="bf16-mixed")


@pytest.mark.slow
def test_it_learns(mixed: Trainer) -> None:
    assert figures_of(mixed)["val/accuracy"] > 0.4
    assert figures_of(mixed)["val/certified_36_255"] > 0.1


@pytest.mark.slow
def test_it_is_another_training_than_that_in_float32(
    mixed: Trainer, tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    """The two would be equal if autocast were off."""
    weights = fit(tiny_config, tmp_path).lightning_module.state_dict()
    assert not all(value.equal(weights[name]) for name, value in mixed.lightning_module.state_dict().items())


def test_weights_estimates_and_momenta_are_float32(mixed: Trainer) -> None:
    tensors = [*mixed.lightning_module.state_dict().values()]
    tensors += [entry["momentum_buffer"] for entry in mixed.optimizers[0].state.values()]
    tensors += [parameter.grad for parameter in mixed.lightning_module.parameters() if parameter.grad is not None]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_validation_is_in_full_precision(mixed: Trainer, tmp_path: Path) -> None:
    """The same figures to the last bit, with and without autocast in the trainer."""
    data, module = DigitsDataModule(eval_batch_size=60), mixed.lightning_module
    (plain,) = make_trainer(tmp_path, precision="32-true").validate(module, data, verbose=False)
    (autocast,) = make_trainer(tmp_path, precision="bf16-mixed").validate(module, data, verbose=False)
    assert plain == autocast
    assert plain == {name: value for name, value in figures_of(mixed).items() if name.startswith("val/")}


def test_certification_is_in_float64(mixed: Trainer) -> None:
    model = load_checkpoint(mixed.checkpoint_callback.best_model_path).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    images, labels = validation_images()
    within = certify(model.double(), images, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert certify(model, images, labels).radius.equal(within.radius)
    score = mixed.checkpoint_callback.best_model_score
    certified = (within.correct & (within.radius > 36 / 255)).double().mean().item()
    # One image of 143 may lie on the border of both arithmetics.
    assert certified == pytest.approx(score.item(), abs=1.01 / 143)


def test_parameters_in_half_precision_are_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.bfloat16: .*bf16-mixed"):
        fit(tiny_config, tmp_path, module=make_module(tiny_config), precision="bf16-true")
