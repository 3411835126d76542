"""The LightningModule under Lightning's whole API, with a configuration and with a user's network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lipnet.certify import certify
from lipnet.data import DigitsDataModule
from lipnet.layers import LipschitzModule, SOCLinear
from lipnet.models import CheckpointError, save_checkpoint
from lipnet.training import CertifiedClassifier
from tests.training.runs import DATASET, figures_of, make_module, make_trainer


def test_validating_before_fitting_works(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    module, data = make_module(tiny_config), DigitsDataModule(batch_size=64)
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    (before,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    assert figures_of(trainer)["val/loss"] != before["val/loss"]


def test_test_logs_the_certified_figures_of_the_test_images(
    tmp_path: Path, trained_model: nn.Module, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor]
) -> None:
    module = make_module(tiny_config)
    module.model.load_state_dict(trained_model.state_dict())
    (figures,) = make_trainer(tmp_path).test(module, DigitsDataModule(), verbose=False)
    certificates = certify(module.model.eval(), digits[0].float(), digits[1], ignore_rounding=True)
    certified = certificates.correct & (certificates.radius > 36 / 255)
    assert figures["test/certified_36_255"] == pytest.approx(certified.double().mean().item(), abs=1 / 359)
    assert figures["test/accuracy"] == pytest.approx(certificates.correct.double().mean().item(), rel=1e-6)
    assert not any(name.startswith("val/") for name in figures)


@pytest.mark.parametrize("labelled", [True, False])
def test_predict_returns_predictions_and_radii(
    tmp_path: Path, trained_model: nn.Module, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor], labelled: bool
) -> None:
    module, images = make_module(tiny_config), digits[0][:20].float()
    module.model.load_state_dict(trained_model.state_dict())
    dataset: Any = torch.utils.data.TensorDataset(images, digits[1][:20]) if labelled else images
    batches = make_trainer(tmp_path).predict(module, torch.utils.data.DataLoader(dataset, batch_size=8))
    assert [len(batch.radius) for batch in batches] == [8, 8, 4]
    certificates = certify(module.model.eval(), images, digits[1][:20], ignore_rounding=True)
    assert torch.cat([batch.prediction for batch in batches]).equal(certificates.prediction)
    torch.testing.assert_close(
        torch.cat([batch.radius for batch in batches]), certificates.radius, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize(("scale", "shift"), [(4.0, 0.0), (1.0, -0.5), (255.0, 0.0)])
def test_images_in_other_units_than_the_radii_are_refused(
    tmp_path: Path, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor], stage: str, scale: float, shift: float
) -> None:
    dataset = torch.utils.data.TensorDataset(scale * digits[0][:8].float() + shift, digits[1][:8])
    evaluate = getattr(make_trainer(tmp_path), stage)
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\], got .*: let the model normalise them"):
        evaluate(make_module(tiny_config), torch.utils.data.DataLoader(dataset, batch_size=8))


class ScaleWeights(Callback):
    """Scale the head after the bounds were computed: an error of a user's callback."""

    def on_test_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        next(reversed([*pl_module.model.parameters()])).mul_(3)

    on_predict_batch_start = on_validation_batch_start = on_test_batch_start


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_network_that_changes_during_an_evaluation_is_an_error(
    tmp_path: Path, tiny_config: dict[str, Any], stage: str
) -> None:
    evaluate = getattr(make_trainer(tmp_path, callbacks=[ScaleWeights()]), stage)
    with pytest.raises(RuntimeError, match="the network was changed while it was evaluated"):
        evaluate(make_module(tiny_config), DigitsDataModule())


class Amplifier(LipschitzModule):
    """A module of one's own, with a setting that decides its bound."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * x

    def lipschitz_bound(self) -> float:
        return self.factor


class Amplify(Callback):
    def on_test_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.model[1].factor = 3.0

    on_predict_batch_start = on_validation_batch_start = on_test_batch_start


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_module_of_ones_own_that_changes_during_an_evaluation_is_an_error(tmp_path: Path, stage: str) -> None:
    model = nn.Sequential(nn.Flatten(), Amplifier(), nn.Linear(64, 10))
    module = CertifiedClassifier(model, num_classes=10)
    getattr(make_trainer(tmp_path), stage)(module, DigitsDataModule())
    with pytest.raises(RuntimeError, match="the model was changed while its certificates were computed"):
        getattr(make_trainer(tmp_path, callbacks=[Amplify()]), stage)(module, DigitsDataModule())


class HookLate(Callback):
    """Register a hook that scales the logits after the bounds were computed."""

    def on_test_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.model.register_forward_hook(lambda module, images, logits: 3 * logits)


def test_hooks_that_come_during_an_evaluation_are_refused(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, callbacks=[HookLate()])
    with pytest.raises(ValueError, match="has forward hooks"):
        trainer.test(make_module(tiny_config), DigitsDataModule())


class Sharper(CertifiedClassifier):
    def forward(self, images: Tensor) -> Tensor:
        return 100 * super().forward(images)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_class_whose_forward_is_not_the_networks_is_not_certified(
    tmp_path: Path, tiny_config: dict[str, Any], stage: str
) -> None:
    evaluate = getattr(make_trainer(tmp_path), stage)
    with pytest.raises(ValueError, match="Sharper overrides forward"):
        evaluate(Sharper(tiny_config, DATASET), DigitsDataModule())


def test_a_checkpoint_loads_as_a_module(
    tmp_path: Path, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor]
) -> None:
    module = make_module(tiny_config)
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    trainer.fit(module, DigitsDataModule(batch_size=64))
    loaded = CertifiedClassifier.load_from_checkpoint(trainer.checkpoint_callback.last_model_path, radii=["0.1"])
    assert loaded.description == module.description
    images = digits[0][:5].float()
    assert loaded.eval()(images).equal(module.eval()(images))
    assert loaded.certified_accuracy.radii == ("0.1",)
    plain = tmp_path / "plain.ckpt"
    save_checkpoint(plain, module.model, tiny_config, DATASET)
    assert CertifiedClassifier.load_from_checkpoint(plain).eval()(images).equal(module.eval()(images))


def own_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), SOCLinear(64, 64), nn.ReLU(), SOCLinear(64, 10))


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("change", ["activation", "mean"])
def test_a_network_that_is_not_the_described_one_is_not_saved(
    tmp_path: Path, tiny_config: dict[str, Any], change: str, when: str
) -> None:
    """The checkpoint would hold its weights, and the configuration of another function."""
    module = make_module(tiny_config)
    model = module.model

    def apply() -> None:
        if change == "activation":
            model.stage1[1] = nn.ReLU()  # type: ignore[operator, index]
        else:
            model.normalize.mean += 0.25  # type: ignore[operator, union-attr]

    class Changing(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            apply()

    if when == "before":
        apply()
    callbacks = [ModelCheckpoint(dirpath=tmp_path), *([Changing()] if when == "meanwhile" else [])]
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=callbacks)
    with pytest.raises(
        ValueError, match=r"not the one that model_config describes: (stage1\.1 is|normalize\.mean has)"
    ):
        trainer.fit(module, DigitsDataModule(batch_size=64))
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("described", [True, False])
def test_a_checkpoint_keeps_its_dtype(
    tmp_path: Path, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor], described: bool
) -> None:
    module = CertifiedClassifier(tiny_config if described else own_network(), DATASET).double()
    trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1, precision="64-true")
    trainer.fit(module, DigitsDataModule(batch_size=64))
    path = trainer.checkpoint_callback.last_model_path
    loaded = CertifiedClassifier.load_from_checkpoint(path, model=None if described else own_network())
    images = digits[0][:5].double()
    assert loaded.eval()(images).equal(module.eval()(images))
    content = torch.load(path, weights_only=True)
    first = next(name for name in content["state_dict"] if name.startswith("model."))
    content["state_dict"][first] = content["state_dict"][first].float()
    torch.save(content, tmp_path / "mixed.ckpt")
    with pytest.raises(CheckpointError, match=r"weights must share one floating-point dtype"):
        CertifiedClassifier.load_from_checkpoint(tmp_path / "mixed.ckpt", model=own_network())


def test_a_network_of_ones_own_trains_and_loads(tmp_path: Path, digits: tuple[Tensor, Tensor]) -> None:
    module, data = CertifiedClassifier(own_network()), DigitsDataModule(batch_size=64)
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[ModelCheckpoint(dirpath=tmp_path)])
    trainer.fit(module, data)
    assert figures_of(trainer)["val/accuracy"] > 0.5
    assert figures_of(trainer)["val/certified_36_255"] > 0
    path = trainer.checkpoint_callback.best_model_path
    images = digits[0][:5].float()
    loaded = CertifiedClassifier.load_from_checkpoint(path, model=own_network())
    assert loaded.eval()(images).equal(module.eval()(images))
    with pytest.raises(CheckpointError, match=r"does not describe its network: pass model="):
        CertifiedClassifier.load_from_checkpoint(path)
    with pytest.raises(CheckpointError, match="the weights do not fit the network"):
        CertifiedClassifier.load_from_checkpoint(path, model=nn.Flatten())


@pytest.mark.parametrize("name", ["weights", "tensor"])
@pytest.mark.filterwarnings("ignore:.*carries no SHA-256")
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, name: str) -> None:
    network, path = own_network(), tmp_path / f"{name}.pt"
    torch.save(network.state_dict() if name == "weights" else torch.zeros(3), path)
    for model in (network, None):
        with pytest.raises(CheckpointError, match="must hold a state_dict with the module's weights, got"):
            CertifiedClassifier.load_from_checkpoint(path, model=model)


def test_a_class_of_ones_own_needs_trust() -> None:
    config = {"_target_": f"{__name__}.Own"}
    with pytest.raises(ValueError, match="got _target_"):
        CertifiedClassifier(config)
    assert type(CertifiedClassifier(config, trust=[__name__.partition(".")[0]]).model).__name__ == "Own"


class Own(nn.Flatten):
    """A module that is not lipnet's."""
