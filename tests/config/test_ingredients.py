"""Each ingredient of a training is one override of the command line, and a batch runs with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from PIL import Image
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.layer_list import layer_class, layer_names
from lipnet.certify import certify
from lipnet.data.loaders import MemoryLoader, WorkerLoader
from lipnet.layers import (
    GSSOC,
    SOC,
    GroupAndShuffle,
    Householder,
    HouseholderOrder2,
    LiRes,
    MaxMin,
    MaxMinPermuted,
    NormalizedLinear,
    NormPool2d,
    SOCLinear,
)
from lipnet.training import (
    EMMA,
    AnnealedEMMA,
    BatchWarmup,
    CertificateRegularization,
    ExponentialMovingAverage,
    KernelMuon,
    LastCheckpoint,
    LogitAnnealing,
    Lookahead,
    MulticlassHinge,
    OffsetCrossEntropy,
    RiemannianAdam,
)
from lipnet.workflows.training import make_data, make_module, make_trainer
from tests.training.runs import figures_of

CONF = Path(__file__).parents[2] / "lipnet" / "conf"
QUIET = ["~callbacks.progress_bar", "~callbacks.model_summary", "~callbacks.learning_rate"]
SMALL = ["model.depth=3", "model.initial_channels=8"]


def run(folder: Path, *overrides: str) -> Trainer:
    """Train and validate on one batch each, like ``train.py debug=fast``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["experiment=quickstart", "debug=fast", *QUIET, *SMALL, f"paths.output_dir={folder}", *overrides]
        config = compose("train", overrides=given)
    torch.manual_seed(0)
    data = make_data(config)
    module, trainer = make_module(config, data), make_trainer(config)
    trainer.fit(module, data)
    figures = figures_of(trainer)
    assert {"train/loss", "val/loss", "val/accuracy", "val/certified_36_255"} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    return trainer


def loss_of(trainer: Trainer) -> nn.Module:
    return trainer.lightning_module.loss


def schedule_of(trainer: Trainer) -> object:
    return trainer.lr_scheduler_configs[0].scheduler


def parts_of(trainer: Trainer) -> list[type[nn.Module]]:
    return [type(module) for module in trainer.lightning_module.model.modules()]


def callbacks_of(trainer: Trainer) -> list[type[Any]]:
    return [type(callback) for callback in trainer.callbacks]


def last_checkpoint_of(trainer: Trainer) -> LastCheckpoint:
    (last,) = (callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint))
    return last


def has_convolution(name: str, *more: type[nn.Module]) -> Callable[[Trainer], bool]:
    return lambda trainer: {layer_class(name), *more} <= set(parts_of(trainer))


INGREDIENTS: dict[str, Callable[[Trainer], bool]] = {
    **{f"conv={name}": has_convolution(name) for name in layer_names()},
    **{f"conv=gs conv@conv.layer={name}": has_convolution(name, GroupAndShuffle) for name in layer_names()},
    "loss=cross_entropy": lambda trainer: type(loss_of(trainer)) is nn.CrossEntropyLoss,
    "loss=offset_cross_entropy": lambda trainer: type(loss_of(trainer)) is OffsetCrossEntropy,
    "loss=certificate_regularization": lambda trainer: type(loss_of(trainer)) is CertificateRegularization,
    "loss=logit_annealing": lambda trainer: type(loss_of(trainer)) is LogitAnnealing,
    "loss=multiclass_hinge": lambda trainer: type(loss_of(trainer)) is MulticlassHinge,
    "scheduler=steps": lambda trainer: type(schedule_of(trainer)) is MultiStepLR,
    "scheduler=cosine": lambda trainer: type(schedule_of(trainer)) is CosineAnnealingLR,
    "scheduler=constant": lambda trainer: type(schedule_of(trainer)) is ConstantLR,
    "scheduler=cosine_warmup": lambda trainer: isinstance(schedule_of(trainer), LambdaLR),
    "scheduler=one_cycle": lambda trainer: type(schedule_of(trainer)) is OneCycleLR,
    "scheduler=timed_one_cycle trainer.max_time=00:00:01:00": lambda trainer: (
        issubclass(type(schedule_of(trainer)), OneCycleLR) and trainer.optimizers[0].param_groups[0]["lr"] < 0.1
    ),
    "optimizer=sgd": lambda trainer: type(trainer.optimizers[0]) is torch.optim.SGD,
    "optimizer=adamw": lambda trainer: type(trainer.optimizers[0]) is torch.optim.AdamW,
    "callbacks=[default,ema]": lambda trainer: ExponentialMovingAverage in callbacks_of(trainer),
    "trainer.precision=bf16-mixed": lambda trainer: trainer.precision == "bf16-mixed",
    "trainer.max_time=00:00:09:00": lambda trainer: "Timer" in {kind.__name__ for kind in callbacks_of(trainer)},
    "callbacks.last_checkpoint.stop_after_minutes=9": lambda trainer: (
        last_checkpoint_of(trainer).stop_after_minutes == 9
    ),
    "loss=emma": lambda trainer: type(loss_of(trainer)) is EMMA,
    "loss=annealed_emma": lambda trainer: type(loss_of(trainer)) is AnnealedEMMA,
    "optimizer=nadam": lambda trainer: type(trainer.optimizers[0]) is torch.optim.NAdam,
    "optimizer=muon": lambda trainer: KernelMuon in [type(each) for each in trainer.optimizers[0].optimizers],
    "lookahead=default": lambda trainer: type(trainer.optimizers[0]) is Lookahead,
    "bias_lr_factor=64": lambda trainer: [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.1, 6.4],
    "callbacks=[default,batch_warmup]": lambda trainer: BatchWarmup in callbacks_of(trainer),
    "data.flip=alternating": lambda trainer: trainer.datamodule.flip == "alternating",
    "data.loader=memory": lambda trainer: type(trainer.train_dataloader) is MemoryLoader,
    "data.loader=workers": lambda trainer: type(trainer.train_dataloader) is WorkerLoader,
    "data/mixing=mixup": lambda trainer: type(trainer.datamodule.mixing) is v2.MixUp,
    "data/mixing=cutmix": lambda trainer: type(trainer.datamodule.mixing) is v2.CutMix,
    "head=soc": lambda trainer: SOCLinear in parts_of(trainer),
    "head=lln": lambda trainer: NormalizedLinear in parts_of(trainer),
    "activation=maxmin": lambda trainer: MaxMin in parts_of(trainer),
    "activation=maxmin_permuted": lambda trainer: MaxMinPermuted in parts_of(trainer),
    "activation=householder": lambda trainer: Householder in parts_of(trainer),
    "activation=householder2": lambda trainer: HouseholderOrder2 in parts_of(trainer),
    "model/pooling=norm model.depth=4 model.stages=2": lambda trainer: NormPool2d in parts_of(trainer),
    "model.initial_channels=32": lambda trainer: trainer.lightning_module.model.head.in_features == 8 * 32,
    "model.depth=9": lambda trainer: len(trainer.lightning_module.model.stage1) == 2 * 3,
}


@pytest.mark.cover(0)
@pytest.mark.parametrize("overrides", INGREDIENTS)
def test_an_ingredient_is_one_override(tmp_path: Path, overrides: str) -> None:
    trainer = run(tmp_path, *overrides.split())
    assert INGREDIENTS[overrides](trainer)
    assert not list(tmp_path.iterdir()), "a fast development run leaves nothing"


DIGITS = ["data=digits", "trainer=cpu", "debug=fast", "head=lln", "scheduler=cosine_warmup"]
NETWORKS = {
    "model=liresnet model.stem_stride=1 model.dense_features=16 model.dense_depth=1": lambda trainer: (
        LiRes in parts_of(trainer)
    ),
    "model=liresnet conv=soc model/dense=lires model.stem_stride=1 model.dense_features=16 model.dense_depth=1": (
        lambda trainer: {SOC, LiRes} <= set(parts_of(trainer))
    ),
    "model=liresnet conv=gs_soc model.stem_stride=1 model.dense_features=16 model.dense_depth=1": lambda trainer: (
        GSSOC in parts_of(trainer)
    ),
    "model=liresnet model.patch_rotation=true model.stem_stride=2 model.neck_patch_size=2 model.dense_depth=0": (
        lambda trainer: bool(trainer.lightning_module.model.stem[0].fitted)
    ),
    "model=lipnext": lambda trainer: not trainer.lightning_module.model.block1.mixing.groups > 1,
    "model=gs_lipnext model.groups=4": lambda trainer: trainer.lightning_module.model.block1.mixing.groups == 4,
    "model=lipnext model.patch_rotation=true": lambda trainer: bool(trainer.lightning_module.model.stem.fitted),
    "model=lipnext model.parametrization=manifold lookahead=default": lambda trainer: any(
        isinstance(each, RiemannianAdam) for each in trainer.optimizers[0].optimizer.optimizers
    ),
}


@pytest.mark.cover(0)
@pytest.mark.parametrize("overrides", NETWORKS)
def test_a_network_is_one_choice(tmp_path: Path, overrides: str) -> None:
    small = ["model.depth=2", "model.channels=16"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [*DIGITS, *QUIET, *overrides.split(), *small, f"paths.output_dir={tmp_path}"]
        config = compose("train", overrides=given)
    torch.manual_seed(0)
    data = make_data(config)
    trainer = make_trainer(config)
    trainer.fit(make_module(config, data), data)
    assert all(np.isfinite(value) for value in figures_of(trainer).values())
    assert NETWORKS[overrides](trainer)


COMBINATIONS = [
    "loss=certificate_regularization head=lln activation=householder scheduler=cosine_warmup",
    "loss=offset_cross_entropy data/mixing=cutmix data.loader=workers callbacks=[default,ema]",
    "loss=multiclass_hinge head=lln trainer.precision=bf16-mixed activation=householder2 callbacks=[default,ema]",
    "loss=logit_annealing scheduler=one_cycle optimizer=adamw model/pooling=norm model.depth=4 model.stages=2 head=lln",
]


@pytest.mark.parametrize("overrides", COMBINATIONS)
def test_ingredients_go_together_and_can_be_certified(tmp_path: Path, overrides: str) -> None:
    trainer = run(tmp_path, *overrides.split())
    model = trainer.lightning_module.model.double().eval()
    images = torch.rand(8, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radius = certify(model, images, torch.zeros(8, dtype=torch.int64)).radius
    assert bool(((radius > 0) & radius.isfinite()).all())


CIFAR = ["data=cifar10", "model.depth=5", "model.stages=5"]


@pytest.mark.parametrize(
    ("policy", "kind"), [("trivial_augment", v2.TrivialAugmentWide), ("rand_augment", v2.RandAugment)]
)
def test_a_policy_is_one_override_of_the_workers(
    tmp_path: Path,
    write_fake_cifar: Callable[[type[datasets.CIFAR10]], Any],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    kind: type[nn.Module],
) -> None:
    calls = []

    def counted(self: nn.Module, image: Any, forward: Callable[[nn.Module, Any], Any] = kind.forward) -> Any:
        calls.append(self)
        return forward(self, image)

    monkeypatch.setattr(kind, "forward", counted)
    root = write_fake_cifar(datasets.CIFAR10).root
    paths = [f"data.data_dir={root}", "data.loader=workers", "data.num_workers=0"]
    trainer = run(tmp_path / "run", *CIFAR, *paths, f"data/policy={policy}")
    assert type(trainer.datamodule.policy) is kind
    assert set(calls) == {trainer.datamodule.policy}, "the policy sees the training images"


@pytest.fixture
def generated(tmp_path: Path) -> dict[str, Path]:
    """Write forty images to an archive, and one for each class to folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "generated.npz", image=pixels, label=np.arange(40) % 10)
    for label in range(10):
        folder = tmp_path / "generated" / str(label)
        folder.mkdir(parents=True)
        Image.fromarray(pixels[label]).save(folder / "one.png")
    return {"npz": tmp_path / "generated.npz", "folder": tmp_path / "generated"}


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_extra_images_are_one_override_and_their_path(
    tmp_path: Path, write_fake_cifar: Callable[[type[datasets.CIFAR10]], Any], generated: dict[str, Path], kind: str
) -> None:
    paths = [f"data.data_dir={write_fake_cifar(datasets.CIFAR10).root}", f"data.extra.path={generated[kind]}"]
    trainer = run(tmp_path / "run", *CIFAR, *paths, f"data/extra={kind}", "data.extra.ratio=0.3")
    assert trainer.datamodule.extra.ratio == 0.3
    assert len(trainer.datamodule.training_dataset()) == {"npz": 130, "folder": 100}[kind]
