"""Batch warm-up, the fraction of a training that is done, and rotations fitted to its images, in real trainings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning import Callback, Trainer

from lipnet.data import DigitsDataModule
from lipnet.layers import PatchEmbedding
from lipnet.training import EMMA, BatchWarmup, CosineWithWarmup
from tests.training.runs import best_checkpoint, fit, make_module, make_trainer

CONFIG: dict[str, Any] = {
    "_target_": "lipnet.models.LipNeXt",
    "num_classes": 10,
    "depth": 1,
    "channels": 8,
    "share": 0.25,
    "in_channels": 1,
    "image_size": 8,
    "patch_rotation": True,
    "parametrization": "manifold",
    "mean": [0.3],
    "std": 0.4,
}


class Recorder(Callback):
    """Notes the samples of each step and the radius of the loss."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.radii: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append(trainer.global_step)
        self.radii.append(getattr(pl_module.loss, "progress", 0.0))


def test_the_batch_grows_and_schedules_count_its_steps(tmp_path: Path) -> None:
    recorder, growth = Recorder(), BatchWarmup({0: 1, 1: 3})
    module = make_module(CONFIG, scheduler=CosineWithWarmup(warmup=0.0))
    callbacks = [best_checkpoint(tmp_path), recorder, growth]
    trainer = fit(CONFIG, tmp_path, module=module, callbacks=callbacks, limit_train_batches=7)
    # Seven steps, then three of 3, 3 and 1 batches.
    assert recorder.steps == [1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 9, 10]
    assert trainer.global_step == growth.steps(batches=7, epochs=2) == 10
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "growth",
    [{}, {1: 2}, {0: 0}, {0: 1, 4: 2, 2: 4}, [], [[0, 1], [0, 2]], [[0]], [0, 1], ["01"], {0: True}, {"0": 1}, 4, None],
)
def test_a_growth_that_makes_no_sense_is_refused(growth: Any) -> None:
    with pytest.raises(ValueError, match="growth must map epochs, increasing from 0, to factors of at least 1, got"):
        BatchWarmup(growth)


def test_the_command_line_replaces_the_growth() -> None:
    with initialize_config_module("lipnet.conf", version_base="1.3"):
        config = compose("train", ["callbacks=[default,batch_warmup]", "callbacks.batch_warmup.growth=[[0,4],[3,2]]"])
    assert instantiate(config.callbacks.batch_warmup).growth == {0: 4, 3: 2}


def test_the_radius_of_emma_follows_the_steps(tmp_path: Path) -> None:
    recorder = Recorder()
    module = make_module(CONFIG, loss=EMMA())
    fit(CONFIG, tmp_path, module=module, callbacks=[best_checkpoint(tmp_path), recorder], limit_train_batches=4)
    assert recorder.radii == pytest.approx([step / 8 for step in range(8)])


def test_a_training_without_a_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs its length: set trainer\.max_epochs"):
        fit(CONFIG, tmp_path, module=make_module(CONFIG, loss=EMMA(), scheduler=None), max_epochs=-1)


def test_the_rotation_is_fitted_to_the_training_images_once(tmp_path: Path) -> None:
    trainer = fit(CONFIG, tmp_path, limit_train_batches=2, max_epochs=1)
    stem = trainer.lightning_module.model.stem
    expected = PatchEmbedding(1, 2, rotation=True)
    data = DigitsDataModule()
    images = data.training_images(5000)
    assert images.shape == (len(data.training_dataset()), 1, 8, 8)
    expected.fit(images)
    torch.testing.assert_close(stem.components, expected.components)
    assert bool(stem.fitted)
    with torch.no_grad():
        stem.components.zero_()
    make_trainer(tmp_path, max_epochs=1, limit_train_batches=1, callbacks=[]).fit(trainer.lightning_module, data)
    assert not stem.components.any(), "a fitted rotation stays"


def test_a_rotation_without_images_is_refused(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader([(torch.zeros(1, 8, 8), 0)])
    with pytest.raises(ValueError, match=r"model.stem has no rotation yet, .*training_images\(count\)"):
        make_trainer(tmp_path, callbacks=[]).fit(make_module(CONFIG), loader, loader)


def test_matrices_on_the_manifold_stay_orthogonal_in_a_training(tmp_path: Path) -> None:
    trainer = fit(CONFIG, tmp_path, limit_train_batches=10, max_epochs=1)
    model = trainer.lightning_module.model.eval()
    assert model.block1.lipschitz_bound() < 1 + 1e-5
    weight = model.block1.mixing.weight.detach()
    torch.testing.assert_close(weight.mT @ weight, torch.eye(8), rtol=0, atol=1e-5)


def test_training_images_are_spread_evenly() -> None:
    data = DigitsDataModule()
    assert 90 <= len(data.training_images(100)) <= 100
    assert 0 <= float(data.training_images(100).min()) < float(data.training_images(100).max()) <= 1


def test_factories_of_optimizers_still_work(tmp_path: Path) -> None:
    module = make_module({**CONFIG, "parametrization": "cayley"}, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    trainer = fit(CONFIG, tmp_path, module=module, limit_train_batches=1, max_epochs=1)
    assert type(trainer.optimizers[0]) is torch.optim.AdamW
