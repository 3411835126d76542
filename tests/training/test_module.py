"""The LightningModule on the digits: logging, saving and resuming, with one process and with two."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp

from lipnet.certify import certify, lipschitz_bound
from lipnet.certify.bounds import LogitBounds, logit_bounds
from lipnet.data import DigitsDataModule
from lipnet.data.augmentation import Mixing
from lipnet.layers.estimated import estimated_scales
from lipnet.metrics.functional import certified_accuracy
from lipnet.models import load_checkpoint
from lipnet.training import (
    CertificateRegularization,
    ExponentialMovingAverage,
    LogitAnnealing,
    MulticlassHinge,
    OffsetCrossEntropy,
    certified_accuracy_key,
)
from lipnet.training.losses import LipschitzLoss
from tests.training.runs import (
    DATASET,
    RADII,
    assert_same_training,
    figures_of,
    fit,
    make_module,
    make_trainer,
    validation_images,
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> Trainer:
    """A training of two epochs in one go."""
    return fit(tiny_config, tmp_path_factory.mktemp("fitted"))


def test_the_names_that_are_logged(fitted: Trainer) -> None:
    validation = {"loss", "accuracy", "lipschitz_estimate", "certified_36_255", "certified_72_255", "certified_0_02"}
    assert set(figures_of(fitted)) == {"train/loss", "train/accuracy", *(f"val/{name}" for name in validation)}


@pytest.mark.parametrize(("radius", "name"), [("36/255", "36_255"), ("1", "1"), ("0.5", "0_5")])
def test_the_name_of_a_radius(radius: str, name: str) -> None:
    assert certified_accuracy_key(radius) == f"val/certified_{name}"


def test_two_epochs_learn_something_that_can_be_certified(fitted: Trainer) -> None:
    figures = figures_of(fitted)
    assert figures["val/accuracy"] > 0.4
    assert 0 < figures["val/certified_72_255"] < figures["val/certified_36_255"]
    assert figures["val/certified_36_255"] <= figures["val/certified_0_02"] <= figures["val/accuracy"]
    assert figures["train/accuracy"] > 0.25


def estimated(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The estimated radii of a model, and whether its predictions are right."""
    bounds = logit_bounds(model, estimate=True)
    with torch.no_grad(), estimated_scales(model):
        prediction, radius = bounds.certified_radius(model(images))
    return radius, prediction == labels


def test_validation_reports_estimates_close_to_what_certify_finds(fitted: Trainer) -> None:
    model, (images, labels), figures = fitted.lightning_module.model.eval(), validation_images(), figures_of(fitted)
    radius, correct = estimated(model, images, labels)
    certificates = certify(model, images, labels, batch_size=60, ignore_rounding=True)
    assert figures["val/accuracy"] == pytest.approx(correct.double().mean().item(), rel=1e-6)
    proven = certified_accuracy(certificates.radius, certificates.correct, RADII)
    for name, share, found in zip(RADII, certified_accuracy(radius, correct, RADII), proven, strict=True):
        assert figures[certified_accuracy_key(name)] == pytest.approx(share.item(), rel=1e-6)
        assert figures[certified_accuracy_key(name)] == pytest.approx(found.item(), abs=0.03)
    assert figures["val/lipschitz_estimate"] == pytest.approx(lipschitz_bound(model), rel=1e-4)
    with torch.no_grad(), estimated_scales(model):
        loss = nn.functional.cross_entropy(model(images), labels).item()
    assert figures["val/loss"] == pytest.approx(loss, rel=1e-5)


NORMALIZED_HEAD = {"head": {"_target_": "lipnet.layers.NormalizedLinear", "_partial_": True}}


def test_validation_certifies_the_pairs_of_logits_of_a_head(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    trainer = fit({**tiny_config, **NORMALIZED_HEAD}, tmp_path)
    model, (images, labels), figures = trainer.lightning_module.model.eval(), validation_images(), figures_of(trainer)
    radius, correct = estimated(model, images, labels)
    together = LogitBounds(logit_bounds(model, estimate=True).lipschitz)
    with torch.no_grad(), estimated_scales(model):
        _, shared = together.certified_radius(model(images))
    for name, share in zip(RADII, certified_accuracy(radius, correct, RADII), strict=True):
        assert figures[certified_accuracy_key(name)] == pytest.approx(share.item(), rel=1e-6)
    assert not certified_accuracy(radius, correct, RADII).equal(certified_accuracy(shared, correct, RADII)), (
        "certificates that are alike would show nothing"
    )


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()], ids=["mixup", "cutmix"])
def test_mixed_images_train(tmp_path: Path, tiny_config: dict[str, Any], mixing: Mixing) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit(make_module(tiny_config), DigitsDataModule(batch_size=64, mixing=mixing, loader="memory"))
    assert figures_of(trainer)["val/accuracy"] > 0.25


def test_each_validation_counts_for_itself(fitted: Trainer) -> None:
    again = make_trainer(Path(fitted.default_root_dir))
    data = DigitsDataModule(eval_batch_size=60)
    runs = [again.validate(fitted.lightning_module, data, verbose=False)[0] for _ in range(2)]
    figures = figures_of(fitted)
    assert runs[0] == runs[1]
    assert runs[0] == {name: value for name, value in figures.items() if name.startswith("val/")}


def test_the_checkpoint_describes_itself(fitted: Trainer, tiny_config: dict[str, Any]) -> None:
    path = Path(fitted.checkpoint_callback.last_model_path)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    checkpoint = load_checkpoint(path)
    assert checkpoint.model_config == tiny_config
    assert checkpoint.dataset == DATASET
    trained, (images, _) = fitted.lightning_module.model.eval(), validation_images()
    with torch.no_grad():
        assert checkpoint.model(images).equal(trained(images))


def test_the_rate_falls_once_an_epoch(fitted: Trainer) -> None:
    (optimizer,) = fitted.optimizers
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert fitted.lr_scheduler_configs[0].interval == "epoch"


def test_a_resumed_training_is_the_one_that_was_not_interrupted(
    fitted: Trainer, tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    half = fit(tiny_config, tmp_path, max_epochs=1)
    checkpoint = Path(half.checkpoint_callback.last_model_path)
    whole = fit(tiny_config, tmp_path, ckpt_path=checkpoint)
    assert_same_training(whole, fitted)
    weights = half.lightning_module.state_dict()
    assert not all(weights[name].equal(value) for name, value in whole.lightning_module.state_dict().items())


class Diverging(nn.Module):
    """Loss that is finite once, then NaN."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return logits.sum() * (1.0 if self.calls == 1 else self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, tiny_config: dict[str, Any], value: float) -> None:
    module = make_module(tiny_config, loss=Diverging(value))
    with pytest.raises(ValueError, match=r"loss became -?(nan|inf) in epoch 0, step 1: .*optimizer\.lr"):
        make_trainer(tmp_path).fit(module, DigitsDataModule())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", [CertificateRegularization(), OffsetCrossEntropy(), MulticlassHinge()])
def test_losses_measure_by_the_networks_constant(tiny_config: dict[str, Any], loss: LipschitzLoss) -> None:
    module = make_module(tiny_config, loss=loss)
    assert module.loss.lipschitz_constant == pytest.approx(1 / 0.3759, rel=1e-6)
    assert module.loss.lipschitz_constant == pytest.approx(lipschitz_bound(module.model.eval()), rel=1e-6)
    assert loss.lipschitz_constant is None, "the loss that was given may serve another network"
    stated = make_module(tiny_config, loss=type(loss)(lipschitz_constant=2.0))
    assert stated.loss.lipschitz_constant == 2.0


@pytest.mark.cover(0)
@pytest.mark.parametrize(
    "loss", [OffsetCrossEntropy(), CertificateRegularization(), LogitAnnealing(), MulticlassHinge(radius="108/255")]
)
def test_every_loss_trains(tmp_path: Path, tiny_config: dict[str, Any], loss: nn.Module) -> None:
    figures = figures_of(fit(tiny_config, tmp_path, module=make_module(tiny_config, loss=loss)))
    assert figures["val/accuracy"] > 0.25
    assert figures["val/certified_0_02"] > 0.1


def test_losses_measure_radii_as_the_head_is_certified(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """The radius in the loss is the radius of `certify`, up to rounding, before and after a training."""
    loss = CertificateRegularization(gamma=1.0)
    module = make_module({**tiny_config, **NORMALIZED_HEAD}, loss=loss)
    images, labels = validation_images()
    for step in range(2):
        if step:
            trainer = fit(tiny_config, tmp_path, module=module, limit_train_batches=5, callbacks=[])
            module = trainer.lightning_module
        model = module.model.eval()
        certificates = certify(model, images, labels, ignore_rounding=True)
        correct = certificates.correct
        assert 0 < correct.sum() < len(labels)
        logits = model(images)[correct]
        radius = nn.functional.cross_entropy(logits, labels[correct]) - module.loss(logits, labels[correct])
        assert radius.item() == pytest.approx(certificates.radius[correct].mean().item(), rel=1e-4)
        (gradient,) = torch.autograd.grad(radius, [model.head.weight])
        assert gradient.isfinite().all()
    assert loss.lipschitz_constant is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_measures_by_its_own_head(tiny_config: dict[str, Any], duplicate: Callable[[Any], Any]) -> None:
    """Spawned processes, and callbacks that copy a module, need this."""
    original = make_module({**tiny_config, **NORMALIZED_HEAD}, loss=MulticlassHinge(radius=10.0))
    other = duplicate(original)
    logits, labels = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    before = original.loss(logits, labels)
    assert other.loss(logits, labels).equal(before)
    with torch.no_grad():
        other.model.head.weight[:, 0] += 10.0
    assert original.loss(logits, labels).equal(before)
    assert not other.loss(logits, labels).equal(before)


class MixedDigits(DigitsDataModule):
    """Labels as probabilities: nine tenths the class, one tenth the next."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        if not self.trainer.training:
            return batch
        classes = nn.functional.one_hot(labels, 10).float()
        return images, 0.9 * classes + 0.1 * classes.roll(1, dims=1)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), OffsetCrossEntropy()])
def test_labels_may_be_probabilities(tmp_path: Path, tiny_config: dict[str, Any], loss: nn.Module) -> None:
    trainer = fit(tiny_config, tmp_path, module=make_module(tiny_config, loss=loss), data=MixedDigits(batch_size=64))
    figures = figures_of(trainer)
    assert figures["val/accuracy"] > 0.25
    assert figures["train/accuracy"] > 0.25


def test_without_a_schedule_there_is_an_optimizer_alone(tiny_config: dict[str, Any]) -> None:
    assert isinstance(make_module(tiny_config, scheduler=None).configure_optimizers(), torch.optim.SGD)


def test_forward_is_the_networks(tiny_config: dict[str, Any], tiny_model: nn.Module) -> None:
    images = validation_images()[0][:3]
    module = make_module(tiny_config).eval()
    assert module(images).equal(tiny_model(images))


def test_settings_that_make_no_sense_are_refused(tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lipnet\.\* and torch\.nn\.\* modules alone, got _target_ 'os\.system'"):
        make_module({"_target_": "os.system", "command": "true"})
    with pytest.raises(ValueError, match=r"number such as '36/255' or 0\.5, got 'far'"):
        make_module(tiny_config, radii=["far"])
    with pytest.raises(ValueError, match="each radius once"):
        make_module(tiny_config, radii=["1", "1"])
    with pytest.raises(ValueError, match="different names, got val/certified_1_5, val/certified_1_5"):
        make_module(tiny_config, radii=["1/5", "1.5"])


class LeavingEnvironment(LightningEnvironment):
    """Ends the process group as it ends: a spawned process that exits within it aborts."""

    def teardown(self) -> None:
        super().teardown()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def two_processes() -> dict[str, Any]:
    """Settings of a Trainer for two processes on the CPU."""
    strategy = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False, start_method="spawn")
    return {"devices": 2, "strategy": strategy, "plugins": [LeavingEnvironment()]}


@pytest.mark.slow
def test_two_processes_validate_as_one_does(fitted: Trainer, tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """143 images are 72 and 71: one process has two batches, the other one."""
    module = make_module(tiny_config)
    module.load_state_dict(fitted.lightning_module.state_dict())
    data = DigitsDataModule(eval_batch_size=71)
    (shared,) = make_trainer(tmp_path, **two_processes()).validate(module, data, verbose=False)
    alone = {name: value for name, value in figures_of(fitted).items() if name.startswith("val/")}
    assert shared == pytest.approx(alone, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", [[], [ExponentialMovingAverage(decay=0.8)]], ids=["plain", "average"])
def test_two_processes_train_and_validate_the_same_weights(
    tmp_path: Path, tiny_config: dict[str, Any], callbacks: list[Callback]
) -> None:
    module, data = make_module(tiny_config), DigitsDataModule(batch_size=64, eval_batch_size=71)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=False, **two_processes())
    trainer.fit(module, data)
    shared = {name: value for name, value in figures_of(trainer).items() if name.startswith("val/")}
    (alone,) = make_trainer(tmp_path).validate(module, DigitsDataModule(eval_batch_size=60), verbose=False)
    assert shared == pytest.approx(alone, rel=1e-6)
    assert alone["val/accuracy"] > 0.2
