"""The LightningModule on the digits: what it logs, saves and resumes, on one process and on two."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.data import CutMix, DigitsDataModule, Mixing, MixUp
from lipnet.metrics.functional import certified_accuracy
from lipnet.models import load_checkpoint
from lipnet.training import CertifiedClassifier, WholeCheckpointIO, certified_accuracy_key, step_schedule

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
        "callbacks": [ModelCheckpoint(dirpath=folder, monitor="val/certified_36_255", mode="max", save_last=True)],
        "plugins": [WholeCheckpointIO()],
    }
    return Trainer(**{**arguments, **settings})


def fit(config: dict[str, Any], folder: Path, ckpt_path: Path | None = None, **settings: Any) -> Trainer:
    """A training on the augmented digits; the Trainer knows the module."""
    data = DigitsDataModule(batch_size=64, eval_batch_size=60)
    trainer = make_trainer(folder, **settings)
    trainer.fit(make_module(config), data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def validation_images() -> tuple[Tensor, Tensor]:
    images, labels = zip(*DigitsDataModule().evaluation_dataset("validation"), strict=True)
    return torch.stack(images), torch.tensor(labels)


def figures_of(trainer: Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, Any]) -> Trainer:
    """A training of two epochs in one go."""
    return fit(tiny_config, tmp_path_factory.mktemp("fitted"))


def test_the_names_that_are_logged(fitted: Trainer) -> None:
    validation = {"loss", "accuracy", "lipschitz_bound", "certified_36_255", "certified_72_255", "certified_0_02"}
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


def test_validation_reports_what_certify_does(fitted: Trainer) -> None:
    model, (images, labels), figures = fitted.lightning_module.model.eval(), validation_images(), figures_of(fitted)
    certificates = certify(model, images, labels, batch_size=60)
    assert figures["val/accuracy"] == pytest.approx(certificates.correct.double().mean().item(), rel=1e-6)
    for radius, share in zip(RADII, certified_accuracy(certificates.radius, certificates.correct, RADII), strict=True):
        assert figures[certified_accuracy_key(radius)] == pytest.approx(share.item(), rel=1e-6)
    assert figures["val/lipschitz_bound"] == pytest.approx(lipschitz_bound(model), rel=1e-6)
    loss = nn.functional.cross_entropy(model(images), labels).item()
    assert figures["val/loss"] == pytest.approx(loss, rel=1e-5)


def test_validation_certifies_the_pairs_of_logits_of_a_head(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    config = {**tiny_config, "head": {"_target_": "lipnet.layers.NormalizedLinear", "_partial_": True}}
    trainer = fit(config, tmp_path)
    model, (images, labels), figures = trainer.lightning_module.model.eval(), validation_images(), figures_of(trainer)
    certificates = certify(model, images, labels, batch_size=60)
    shared = certify(model, images, labels, batch_size=60, lipschitz=lipschitz_bound(model))
    assert (certificates.radius >= shared.radius).all()
    for radius, share in zip(RADII, certified_accuracy(certificates.radius, certificates.correct, RADII), strict=True):
        assert figures[certified_accuracy_key(radius)] == pytest.approx(share.item(), rel=1e-6)
    assert not certified_accuracy(certificates.radius, certificates.correct, RADII).equal(
        certified_accuracy(shared.radius, shared.correct, RADII)
    ), "certificates that are alike would show nothing"
    assert figures["val/lipschitz_bound"] == pytest.approx(lipschitz_bound(model), rel=1e-6)


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
    straight, resumed = fitted.lightning_module.state_dict(), whole.lightning_module.state_dict()
    assert (whole.global_step, whole.current_epoch) == (fitted.global_step, fitted.current_epoch)
    assert straight.keys() == resumed.keys()
    assert all(straight[name].equal(resumed[name]) for name in straight)
    assert not all(straight[name].equal(value) for name, value in half.lightning_module.state_dict().items())
    assert figures_of(whole) == figures_of(fitted)
    momenta = [trainer.optimizers[0].state_dict()["state"] for trainer in (fitted, whole)]
    assert all(momenta[0][i]["momentum_buffer"].equal(momenta[1][i]["momentum_buffer"]) for i in momenta[0])


class Diverging(nn.Module):
    """A loss that is a number once, and then none."""

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


def test_without_a_schedule_there_is_an_optimizer_alone(tiny_config: dict[str, Any]) -> None:
    assert isinstance(make_module(tiny_config, scheduler=None).configure_optimizers(), torch.optim.SGD)


def test_forward_is_the_networks(tiny_config: dict[str, Any], tiny_model: nn.Module) -> None:
    images = validation_images()[0][:3]
    module = make_module(tiny_config).eval()
    assert module(images).equal(tiny_model(images))


def test_settings_that_make_no_sense_are_refused(tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lipnet\.\* and torch\.nn\.\* modules alone, received _target_ 'os\.system'"):
        make_module({"_target_": "os.system", "command": "true"})
    with pytest.raises(ValueError, match=r"radius such as '36/255' or 0\.5, but got 'far'"):
        make_module(tiny_config, radii=["far"])
    with pytest.raises(ValueError, match="each radius once"):
        make_module(tiny_config, radii=["1", "1"])


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
def test_two_processes_train_and_validate_the_same_weights(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module, data = make_module(tiny_config), DigitsDataModule(batch_size=64, eval_batch_size=71)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[], enable_checkpointing=False, **two_processes())
    trainer.fit(module, data)
    shared = {name: value for name, value in figures_of(trainer).items() if name.startswith("val/")}
    (alone,) = make_trainer(tmp_path).validate(module, DigitsDataModule(eval_batch_size=60), verbose=False)
    assert shared == pytest.approx(alone, rel=1e-6)
    assert alone["val/accuracy"] > 0.2
