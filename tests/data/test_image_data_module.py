"""Tests of lipnet.data.base, on the digits, which need no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lipnet.data import DigitsDataModule


def batches_of_epochs(loader: DataLoader[tuple[Tensor, Tensor]], epochs: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Do as Lightning does: set the epoch, then iterate."""
    result = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        result.append([(images, labels) for images, labels in loader])
    return result


def are_equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    """Return True if two epochs have the same batches, bit for bit."""
    return len(first) == len(second) and all(
        torch.equal(images, other_images) and torch.equal(labels, other_labels)
        for (images, labels), (other_images, other_labels) in zip(first, second, strict=True)
    )


def test_training_batches_do_not_depend_on_workers_or_global_state() -> None:
    torch.manual_seed(0)
    alone = batches_of_epochs(DigitsDataModule(batch_size=200).train_dataloader(), epochs=2)
    torch.manual_seed(1)
    shared = batches_of_epochs(DigitsDataModule(batch_size=200, num_workers=2).train_dataloader(), epochs=2)
    for epoch in range(2):
        assert are_equal(alone[epoch], shared[epoch])
    assert not are_equal(alone[0], alone[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_leave_the_global_state_as_it_was(num_workers: int) -> None:
    module = DigitsDataModule(num_workers=num_workers, batch_size=500)
    state = torch.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        assert sum(len(labels) for _, labels in loader) == len(loader.dataset)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_epoch_changes_the_augmentation_of_each_image() -> None:
    dataset = DigitsDataModule().training_dataset()
    changed = [not torch.equal(dataset[0, i][0], dataset[1, i][0]) for i in range(100)]
    # Two of nine crops agree with probability 1/9, a little more where a digit leaves its border empty.
    assert sum(changed) > 60


def test_seed_changes_order_and_augmentation() -> None:
    first, second = DigitsDataModule(seed=0), DigitsDataModule(seed=1)
    assert list(first.train_dataloader().sampler) != list(second.train_dataloader().sampler)
    views = [torch.stack([module.training_dataset()[0, i][0] for i in range(1295)]) for module in (first, second)]
    assert not torch.equal(*views)


def test_augmentation_can_be_switched_off() -> None:
    module = DigitsDataModule(augment=False, batch_size=2000)
    loader = module.train_dataloader()
    loader.sampler.set_epoch(4)  # type: ignore[attr-defined]
    images, labels = next(iter(loader))
    dataset = module.training_dataset()
    for row, (_, position) in enumerate(loader.sampler):
        assert torch.equal(images[row], dataset.source.images[dataset.positions[position]].float() / 16)
        assert labels[row] == dataset.source.labels[dataset.positions[position]]


def test_crop_and_flip_can_be_switched_off_one_by_one() -> None:
    originals = DigitsDataModule(augment=False).training_dataset()
    images = torch.stack([originals[0, i][0] for i in range(200)])

    def views(**settings: Any) -> Tensor:
        dataset = DigitsDataModule(**settings).training_dataset()
        return torch.stack([dataset[0, i][0] for i in range(200)])

    flipped = (views(crop_padding=0, flip=True) == images.flip(-1)).flatten(1).all(1)
    alike = (views(crop_padding=0, flip=True) == images).flatten(1).all(1)
    assert bool((flipped | alike).all())
    # Half of 200 images, by three standard deviations.
    assert 78 < int(flipped.sum()) < 122
    assert torch.equal(views(crop_padding=0, flip=False), images)
    assert torch.equal(views(), views(crop_padding=1, flip=False))


def test_a_negative_crop_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_padding must be at least 0, got -1"):
        DigitsDataModule(crop_padding=-1)


@pytest.mark.parametrize(("batch_size", "last"), [(128, 15), (259, 259), (1294, 1)])
def test_last_training_batch_is_kept_and_never_empty(batch_size: int, last: int) -> None:
    loader = DigitsDataModule(batch_size=batch_size).train_dataloader()
    sizes = [len(labels) for _, labels in loader]
    assert sizes == [batch_size] * (len(sizes) - 1) + [last]
    assert sum(sizes) == 1295
    assert len(loader) == len(sizes)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_is_in_dataset_order_without_augmentation(split: str) -> None:
    module = DigitsDataModule(eval_batch_size=100)
    loader = module.evaluation_dataloader(split)
    batches = list(loader)
    assert len(batches[0][1]) == 100
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    dataset = module.evaluation_dataset(split)
    assert torch.equal(images, torch.stack([image for image, _ in dataset]))
    assert labels.tolist() == [label for _, label in dataset]
    assert module.evaluation_indices(split).tolist() == sorted(module.evaluation_indices(split).tolist())
    assert are_equal(batches, list(module.val_dataloader() if split == "validation" else module.test_dataloader()))


def test_processes_share_the_evaluation_without_repeats_and_the_training_evenly() -> None:
    evaluated, trained = [], []
    for rank in range(2):
        module = DigitsDataModule()
        module.trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment]
        evaluated.append(list(module.test_dataloader().sampler))
        trained.append(list(module.train_dataloader().sampler))
    assert [len(shard) for shard in evaluated] == [180, 179]
    assert sorted(evaluated[0] + evaluated[1]) == list(range(359))
    assert [len(share) for share in trained] == [648, 648]
    assert {position for _, position in trained[0] + trained[1]} == set(range(1295))


@pytest.mark.parametrize("split", ["train", "val", ""])
def test_split_without_a_name(split: str) -> None:
    module = DigitsDataModule()
    for method in (module.evaluation_dataset, module.evaluation_dataloader, module.evaluation_indices):
        with pytest.raises(ValueError, match=rf"split must be one of \('validation', 'test'\), got '{split}'"):
            method(split)


def test_stage_without_a_name() -> None:
    with pytest.raises(ValueError, match=r"stage must be one of \('fit', .*'predict'\) or None, got 'train'"):
        DigitsDataModule().setup("train")


def test_prediction_is_on_the_test_images() -> None:
    class Echo(LightningModule):
        def predict_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
            return batch[1]

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module = DigitsDataModule(eval_batch_size=100)
    labels = trainer.predict(Echo(), datamodule=module)
    assert torch.cat(labels).equal(module.read_images(train=False).labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -2}, "eval_batch_size must be at least 1, got -2"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"validation_fraction": 0.0}, "validation_fraction must lie strictly between 0 and 1, got 0.0"),
        ({"validation_fraction": 1}, "validation_fraction must lie strictly between 0 and 1, got 1"),
        ({"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295, got 4294967296"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**arguments)  # type: ignore[arg-type]


class RecordingModule(LightningModule):
    """A linear classifier that keeps the batches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.training_batches: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.validation_labels: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        self.training_batches.setdefault(self.current_epoch, []).append(batch)
        return nn.functional.cross_entropy(self.linear(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self.validation_labels += batch[1].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_trainer_sees_the_same_batches() -> None:
    torch.manual_seed(0)
    recorder, module = RecordingModule(), DigitsDataModule(batch_size=500)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, datamodule=module)
    expected = batches_of_epochs(DigitsDataModule(batch_size=500).train_dataloader(), epochs=2)
    for epoch in range(2):
        assert are_equal(recorder.training_batches[epoch], expected[epoch])
    assert recorder.validation_labels == 2 * [label for _, label in module.evaluation_dataset("validation")]
