"""Tests of lipnet.data.loaders: the same batches from either, in any process, from any place in an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchvision import datasets
from torchvision.transforms import v2
from torchvision.transforms.v2 import CutMix, MixUp

from lipnet.data import CIFAR10DataModule, DigitsDataModule, ImageDataModule, NpzImages
from lipnet.data.loaders import MemoryLoader, UnchangedBatches, WorkerLoader

Batch = tuple[Tensor, Tensor]
KINDS = {"memory": {"loader": "memory"}, "workers": {"num_workers": 2}, "main process": {"num_workers": 0}}


def epoch_of(loader: WorkerLoader, epoch: int) -> list[Batch]:
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    """The same batches, bit for bit."""
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def rank_of_two(module: ImageDataModule, rank: int) -> ImageDataModule:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    module.trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("mixing", [None, MixUp(alpha=0.4), CutMix()], ids=["plain", "mixup", "cutmix"])
@pytest.mark.parametrize("other", ["workers", "main process"])
def test_memory_and_workers_make_the_same_batches(other: str, mixing: MixUp | CutMix | None) -> None:
    settings: dict[str, Any] = {"batch_size": 150, "mixing": mixing, "seed": 3}
    loaders = [DigitsDataModule(**settings, **KINDS[kind]).train_dataloader() for kind in ("memory", other)]
    assert [type(loader) for loader in loaders] == [MemoryLoader, WorkerLoader]
    assert len(loaders[0]) == len(loaders[1]) == 9
    for epoch in (0, 1, 7):
        first, second = (epoch_of(loader, epoch) for loader in loaders)
        assert_same(first, second)
        assert first[0][0].shape == (150, 1, 8, 8)
        assert first[-1][1].shape == ((95,) if mixing is None else (95, 10))


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_have_the_same_share_from_either(rank: int) -> None:
    first, second = (
        epoch_of(rank_of_two(DigitsDataModule(batch_size=200, loader=loader), rank).train_dataloader(), 4)
        for loader in ("memory", "workers")
    )
    assert_same(first, second)
    assert sum(len(labels) for _, labels in first) == 648


def test_processes_mix_by_numbers_of_their_own() -> None:
    shares = []
    for rank in range(2):
        loader = rank_of_two(DigitsDataModule(batch_size=200, mixing=MixUp()), rank).train_dataloader()
        shares.append(loader_shares(epoch_of(loader, 0)))
    assert shares[0] != shares[1]


def loader_shares(batches: list[Batch]) -> list[float]:
    """Return the mixing weight of each batch, or one minus it."""
    return [round(labels.amax(dim=1).min().item(), 6) for _, labels in batches]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_is_the_same_from_either(split: str) -> None:
    settings: dict[str, Any] = {"eval_batch_size": 100, "mixing": MixUp()}
    first, second = (
        list(DigitsDataModule(loader=loader, **settings).evaluation_dataloader(split))
        for loader in ("memory", "workers")
    )
    assert_same(first, second)
    assert first[0][1].dtype == torch.int64


def test_images_lie_on_the_device_of_the_training() -> None:
    module = DigitsDataModule(loader="memory")
    strategy = SimpleNamespace(root_device=torch.device("meta"))
    module.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy)  # type: ignore[assignment]
    loaders = module.train_dataloader(), module.val_dataloader()
    assert [len(loader.dataset.source) for loader in loaders] == [1295, 143]
    for loader in loaders:
        images, labels = next(iter(loader))
        assert images.device.type == labels.device.type == "meta"


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_goes_on_where_it_was(kind: str) -> None:
    def make() -> WorkerLoader:
        loader = DigitsDataModule(batch_size=150, mixing=MixUp(), **KINDS[kind]).train_dataloader()
        assert isinstance(loader, WorkerLoader)
        return loader

    whole = epoch_of(make(), 2)
    interrupted = make()
    interrupted.sampler.set_epoch(2)  # type: ignore[attr-defined]
    batches = iter(interrupted)
    first = [next(batches) for _ in range(4)]
    state = interrupted.state_dict()
    assert state == {"epoch": 2, "batches": 4, "batch_size": 150, "processes": 1}
    resumed = make()
    resumed.load_state_dict(state)
    rest = epoch_of(resumed, 2)
    assert_same(first + rest, whole)
    assert resumed.state_dict() == {"epoch": 2, "batches": 9, "batch_size": 150, "processes": 1}
    assert_same(epoch_of(resumed, 2), whole)
    assert_same(epoch_of(interrupted, 2), whole)


def test_a_state_of_another_epoch_means_nothing() -> None:
    make = DigitsDataModule(batch_size=150).train_dataloader
    finished, fresh = make(), make()
    epoch_of(finished, 1)
    finished.sampler.set_epoch(2)  # before its first batch, the state is that of the epoch that has ended
    fresh.load_state_dict(finished.state_dict())
    assert_same(epoch_of(fresh, 2), epoch_of(make(), 2))


def test_an_epoch_does_not_go_on_in_other_batches() -> None:
    loader = DigitsDataModule(batch_size=100).train_dataloader()
    loader.load_state_dict({"epoch": 0, "batches": 2, "batch_size": 150})
    with pytest.raises(ValueError, match=r"batch_size must be 150, as when .* began, got 100"):
        next(iter(loader))


def test_an_epoch_does_not_go_on_with_another_number_of_processes() -> None:
    """Each process would skip as many images as before, which are others than those that were seen."""
    loader = rank_of_two(DigitsDataModule(batch_size=100), 0).train_dataloader()
    state = {"epoch": 0, "batches": 2, "batch_size": 100}
    loader.load_state_dict({**state, "processes": 1})
    with pytest.raises(ValueError, match=r"number of processes must be 1, as when .* began, got 2"):
        next(iter(loader))
    loader.load_state_dict(state)  # of lipnet 0.1, which did not record it
    next(iter(loader))


@pytest.mark.parametrize("kind", KINDS)
def test_the_epoch_is_the_one_that_is_set_before_the_first_batch(kind: str) -> None:
    """Lightning makes the iterator of a resumed run before it sets the epoch."""
    loader = DigitsDataModule(batch_size=300, **KINDS[kind]).train_dataloader()
    batches = iter(loader)
    loader.sampler.set_epoch(5)  # type: ignore[attr-defined]
    assert_same(list(batches), epoch_of(DigitsDataModule(batch_size=300).train_dataloader(), 5))


class Recorder(LightningModule):
    """Linear classifier that records its training batches, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.seen: dict[int, list[Batch]] = {}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append((batch[0].clone(), batch[1].clone()))
        return nn.functional.cross_entropy(self.linear(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        assert batch[1].dtype == torch.int64

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(data: ImageDataModule, folder: Path, ckpt_path: Path | None = None, **settings: Any) -> Recorder:
    recorder = Recorder()
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(**{**arguments, **settings}).fit(recorder, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return recorder


@pytest.mark.cover(1)
@pytest.mark.parametrize("mixing", [None, CutMix()], ids=["plain", "cutmix"])
@pytest.mark.parametrize("kind", ["memory", "workers"])
def test_a_resumed_training_sees_the_epochs_that_are_left(kind: str, mixing: CutMix | None, tmp_path: Path) -> None:
    def data() -> DigitsDataModule:
        return DigitsDataModule(batch_size=300, mixing=mixing, **KINDS[kind])

    whole = train(data(), tmp_path)
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="last")
    train(data(), tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[keeper])
    resumed = train(data(), tmp_path, tmp_path / "last.ckpt")
    assert list(resumed.seen) == [1]
    assert_same(resumed.seen[1], whole.seen[1])
    with pytest.raises(AssertionError):
        assert_same(whole.seen[0], whole.seen[1])


@pytest.mark.parametrize("kind", ["memory", "workers"])
def test_a_training_that_was_cut_within_an_epoch_sees_the_batches_that_are_left(kind: str, tmp_path: Path) -> None:
    def data() -> DigitsDataModule:
        return DigitsDataModule(batch_size=300, mixing=MixUp(), **KINDS[kind])

    whole = train(data(), tmp_path)
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="cut", every_n_train_steps=7)
    train(data(), tmp_path, max_steps=7, max_epochs=-1, enable_checkpointing=True, callbacks=[keeper])
    resumed = train(data(), tmp_path, tmp_path / "cut.ckpt")
    assert list(resumed.seen) == [1]
    assert_same(resumed.seen[1], whole.seen[1][2:])


@pytest.mark.parametrize("kind", ["memory", "workers"])
def test_overfitting_repeats_the_same_batches(kind: str, tmp_path: Path) -> None:
    data = DigitsDataModule(batch_size=300, augment=False, **KINDS[kind])
    seen = train(data, tmp_path, overfit_batches=2).seen
    assert len(seen[0]) == 2
    assert_same(seen[0], seen[1])
    expected = data.training_dataset().batch(range(300))
    assert_same(seen[0][:1], [expected])


def test_without_augmentation_nothing_is_mixed() -> None:
    loader = DigitsDataModule(augment=False, mixing=MixUp(), loader="memory").train_dataloader()
    assert next(iter(loader))[1].dtype == torch.int64


@pytest.fixture
def cifar(write_fake_cifar: Callable[[type[datasets.CIFAR10]], Any]) -> Any:
    return write_fake_cifar(datasets.CIFAR10)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """30 images of which image i is i everywhere, of class i mod 10."""
    images = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 32, 32, 3))
    np.savez(tmp_path / "generated.npz", image=images, label=np.arange(30) % 10)
    return tmp_path / "generated.npz"


def is_generated(images: Tensor) -> Tensor:
    """Crops of a constant image have few values; the others are noise."""
    return torch.tensor([len(image.unique()) <= 2 for image in images])


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_extra_images_are_mixed_in_at_their_ratio_by_either(cifar: Any, generated: Path, ratio: float) -> None:
    extra = NpzImages(generated, ratio)
    modules = [
        CIFAR10DataModule(data_dir=cifar.root, extra=extra, batch_size=20, validation_fraction=0.2, loader=loader)
        for loader in ("memory", "workers")
    ]
    for epoch in (0, 3):
        first, second = (epoch_of(module.train_dataloader(), epoch) for module in modules)
        assert_same(first, second)
        assert [len(labels) for _, labels in first] == [20] * 4
        for images, labels in first:
            mixed_in = is_generated(images)
            assert mixed_in.sum() == round(20 * ratio)
            values = (images[mixed_in] * 255).amax(dim=(1, 2, 3)).round().long()
            assert (labels[mixed_in] == values % 10).all()
    assert len(modules[0].evaluation_dataset("validation")) == 20
    assert not is_generated(next(iter(modules[0].val_dataloader()))[0]).any()


def test_extra_images_that_do_not_fit_stop_the_setup(cifar: Any, generated: Path) -> None:
    generated.write_bytes(b"")
    module = CIFAR10DataModule(data_dir=cifar.root, extra=NpzImages(generated, 0.5))
    with pytest.raises(ValueError, match=r"generated\.npz cannot be read"):
        module.setup("fit")
    module.setup("test")


def test_extra_images_of_another_size_stop_the_setup(generated: Path) -> None:
    module = DigitsDataModule(extra=NpzImages(generated, 0.5))
    with pytest.raises(ValueError, match=r"for digits must be uint8 of shape \(N, 8, 8, 1\), .*\(30, 32, 32, 3\)"):
        module.setup("fit")


@pytest.mark.parametrize("policy", [v2.TrivialAugmentWide(), v2.RandAugment()], ids=["trivial", "rand"])
def test_a_policy_is_a_function_of_seed_epoch_and_index(cifar: Any, policy: v2.Transform) -> None:
    def epoch(number: int, seed: int = 0, **settings: Any) -> list[Batch]:
        module = CIFAR10DataModule(data_dir=cifar.root, batch_size=50, seed=seed, **settings)
        return epoch_of(module.train_dataloader(), number)

    torch.manual_seed(0)
    alone = epoch(2, policy=policy)
    torch.manual_seed(1)
    assert_same(alone, epoch(2, policy=policy, num_workers=2))
    for others in (epoch(3, policy=policy), epoch(2)):
        with pytest.raises(AssertionError):
            assert_same(alone, others)
    dataset = CIFAR10DataModule(data_dir=cifar.root, policy=policy).training_dataset()
    views = {dataset[number, 0][0].numpy().tobytes() for number in range(30)}
    assert len(views) > 25


def test_a_policy_needs_single_images_of_bytes(cifar: Any) -> None:
    policy = v2.TrivialAugmentWide()
    message = r"data\.loader=memory makes whole batches, but the policy TrivialAugmentWide .* use data\.loader=workers"
    with pytest.raises(ValueError, match=message):
        CIFAR10DataModule(data_dir=cifar.root, policy=policy, loader="memory")
    with pytest.raises(ValueError, match=r"is for bytes 0\.\.255, but images of digits are 0\.\.16"):
        DigitsDataModule(policy=policy).setup("fit")


def test_a_loader_without_a_name() -> None:
    with pytest.raises(ValueError, match=r"loader must be one of \('memory', 'workers'\), got 'disk'"):
        DigitsDataModule(loader="disk")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_batches_are_served_as_the_loader_serves_them(kind: str) -> None:
    data = DigitsDataModule(batch_size=50, **KINDS[kind])
    dataset, loader = data.evaluation_dataset("test"), data.test_dataloader()
    unchanged = UnchangedBatches(loader, dataset.indices[:120], dataset.digests(120, 50)[1])
    first, second, third = list(loader)[:3]
    assert_same(list(unchanged), [first, second, (third[0][:20], third[1][:20])])


@pytest.mark.parametrize("changed", ["images", "labels", "indices"])
def test_batches_that_have_changed_are_refused(changed: str) -> None:
    data = DigitsDataModule(batch_size=50, loader="memory")
    dataset = data.evaluation_dataset("test")
    unchanged = UnchangedBatches(data.test_dataloader(), dataset.indices.clone(), dataset.digests(150, 50)[1])
    if changed == "indices":
        unchanged.indices[1][3] += 1
    else:
        values = getattr(dataset.source, changed)[dataset.positions[53]]
        getattr(dataset.source, changed)[dataset.positions[53]] = values.roll(1) if changed == "images" else 3
    iterator = iter(unchanged)
    next(iterator)
    with pytest.raises(ValueError, match="batch 1 has other images or labels than at the beginning"):
        next(iterator)
