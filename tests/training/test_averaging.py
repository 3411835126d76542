"""The moving average against its recurrence, and its validation, saving and certification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from lipnet.certify import certify
from lipnet.layers import SOCLinear
from lipnet.metrics.functional import certified_accuracy
from lipnet.models import load_checkpoint
from lipnet.training import CertifiedClassifier, ExponentialMovingAverage, LastCheckpoint, certified_accuracy_key
from lipnet.training.averaging import AVERAGING
from tests.training.runs import RADII, best_checkpoint, figures_of, fit, make_module, validation_images

Weights = dict[str, Tensor]


class Recorder(Callback):
    """The weights before the training, after each batch, and in each validation."""

    def __init__(self) -> None:
        self.steps: list[Weights] = []
        self.validated: list[Weights] = []

    def on_train_start(self, trainer: Trainer, pl_module: CertifiedClassifier) -> None:
        self.steps.append(weights_of(pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: CertifiedClassifier, *_: Any) -> None:
        self.steps.append(weights_of(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: CertifiedClassifier) -> None:
        self.validated.append(weights_of(pl_module))


def weights_of(module: CertifiedClassifier) -> Weights:
    return {name: parameter.detach().clone().double() for name, parameter in module.named_parameters()}


def recurrence(steps: list[Weights], decays: list[float]) -> list[Weights]:
    """The averages after each step, in float64."""
    averages = [steps[0]]
    for decay, weights in zip(decays, steps[1:], strict=True):
        averages.append({name: decay * averages[-1][name] + (1 - decay) * weights[name] for name in weights})
    return averages


def assert_close(computed: Weights, expected: Weights) -> None:
    assert computed.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(computed[name].double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "decays"),
    [
        ({"decay": 0.5}, [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, *(5 * [0.5])]),
        ({"decay": 0.9, "warmup": False}, 12 * [0.9]),
        ({"decay": 0.0}, 12 * [0.0]),
    ],
)
def test_the_average_follows_its_recurrence(
    tmp_path: Path, tiny_config: dict[str, Any], settings: dict[str, Any], decays: list[float]
) -> None:
    recorder, average = Recorder(), ExponentialMovingAverage(**settings)
    trainer = fit(
        tiny_config, tmp_path, limit_train_batches=6, callbacks=[average, recorder, best_checkpoint(tmp_path)]
    )
    averages = recurrence(recorder.steps, decays)
    assert_close(recorder.validated[0], averages[6])
    assert_close(recorder.validated[1], averages[12])
    assert_close(weights_of(trainer.lightning_module), averages[12])
    if settings["decay"]:
        assert not recorder.validated[1]["model.head.weight"].equal(recorder.steps[-1]["model.head.weight"])


def test_accumulated_gradients_count_as_one_step(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    recorder, average = Recorder(), ExponentialMovingAverage(decay=0.5, warmup=False)
    settings = {"limit_train_batches": 6, "accumulate_grad_batches": 3, "max_epochs": 1}
    fit(tiny_config, tmp_path, callbacks=[average, recorder], **settings)
    averages = recurrence([recorder.steps[0], recorder.steps[3], recorder.steps[6]], [0.5, 0.5])
    assert_close(recorder.validated[0], averages[-1])


@pytest.mark.slow
def test_what_is_selected_is_what_can_be_certified(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    recorder, keeper = Recorder(), best_checkpoint(tmp_path)
    trainer = fit(tiny_config, tmp_path, callbacks=[ExponentialMovingAverage(decay=0.9), recorder, keeper])
    content = torch.load(keeper.best_model_path, weights_only=True)
    assert content["epoch"] == 1
    model = load_checkpoint(keeper.best_model_path).model
    saved = {f"model.{name}": parameter.detach().double() for name, parameter in model.named_parameters()}
    assert all(saved[name].equal(value) for name, value in recorder.validated[1].items())
    training = content[AVERAGING]["training_weights"]
    assert all(training[name].double().equal(value) for name, value in recorder.steps[-1].items())

    certificates = certify(model, *validation_images(), batch_size=60, ignore_rounding=True)
    shares = certified_accuracy(certificates.radius, certificates.correct, RADII)
    for radius, share in zip(RADII, shares.tolist(), strict=True):
        assert figures_of(trainer)[certified_accuracy_key(radius)] == pytest.approx(share, abs=1.01 / 143)


def test_the_average_of_a_shared_parameter_is_saved_under_all_its_names(tmp_path: Path) -> None:
    def network() -> nn.Module:
        shared = SOCLinear(64, 64)
        return nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared, SOCLinear(64, 10))

    recorder, last = Recorder(), LastCheckpoint(tmp_path / "latest.ckpt")
    callbacks = [ExponentialMovingAverage(decay=0.9), recorder, last]
    fit({}, tmp_path, module=CertifiedClassifier(network()), limit_train_batches=5, callbacks=callbacks)
    loaded = CertifiedClassifier.load_from_checkpoint(last.path, model=network())
    saved = weights_of(loaded)
    assert saved["model.1.weight"].equal(recorder.validated[-1]["model.1.weight"])
    assert not saved["model.1.weight"].equal(recorder.steps[-1]["model.1.weight"])


def test_buffers_are_those_of_the_training_weights(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Averages change the validation, not the training."""
    last = LastCheckpoint(tmp_path / "latest.ckpt")
    plain = fit(tiny_config, tmp_path, limit_train_batches=4, callbacks=[])
    averaged = fit(tiny_config, tmp_path, limit_train_batches=4, callbacks=[ExponentialMovingAverage(), last])
    buffers = dict(averaged.lightning_module.named_buffers())
    expected = dict(plain.lightning_module.named_buffers())
    assert any("vectors" in name for name in buffers)
    assert all(buffers[name].equal(expected[name]) for name in expected)
    training = torch.load(last.path, weights_only=True)[AVERAGING]["training_weights"]
    assert all(training[name].equal(value) for name, value in plain.lightning_module.named_parameters())


class Failing(Callback):
    """A validation that fails."""

    def on_validation_batch_end(self, *_: Any) -> None:
        raise RuntimeError("validation failed")


def test_an_error_in_a_validation_leaves_the_training_weights(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    recorder, module = Recorder(), make_module(tiny_config)
    callbacks = [ExponentialMovingAverage(decay=0.9), recorder, Failing()]
    with pytest.raises(RuntimeError, match="validation failed"):
        fit(tiny_config, tmp_path, module=module, callbacks=callbacks, limit_train_batches=2)
    assert all(value.equal(recorder.steps[-1][name]) for name, value in weights_of(module).items())


def test_a_validation_alone_takes_the_weights_as_they_are(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    average = ExponentialMovingAverage(decay=0.9)
    trainer = fit(tiny_config, tmp_path, limit_train_batches=3, callbacks=[average, best_checkpoint(tmp_path)])
    before = weights_of(trainer.lightning_module)
    trainer.validate(trainer.lightning_module, trainer.datamodule, verbose=False)
    assert all(value.equal(before[name]) for name, value in weights_of(trainer.lightning_module).items())


def test_a_finished_training_that_is_resumed_has_the_average(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Lightning skips a training that has nothing left to do."""

    def train(ckpt_path: Path | None) -> Weights:
        callbacks = [ExponentialMovingAverage(decay=0.9), LastCheckpoint(tmp_path / "latest.ckpt")]
        trainer = fit(tiny_config, tmp_path, ckpt_path, limit_train_batches=3, callbacks=callbacks)
        assert trainer.global_step == 6
        return weights_of(trainer.lightning_module)

    uninterrupted, resumed = train(None), train(tmp_path / "latest.ckpt")
    assert all(value.equal(resumed[name]) for name, value in uninterrupted.items())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_out_of_range_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        ExponentialMovingAverage(decay)
