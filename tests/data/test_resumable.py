"""The resumable loader: it goes on where it was, in the same epoch and there alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lipnet.data import EpochSampler
from lipnet.data.resumable import ResumableDataLoader


class Numbers(Dataset[int]):
    """Item (epoch, i) is 100 epoch + i; remembers what was asked for."""

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: tuple[int, int]) -> int:
        self.read.append(item[1])
        return 100 * item[0] + item[1]


def make_loader(workers: int = 0, batch_size: int = 3) -> ResumableDataLoader:
    dataset = Numbers()
    sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=0)
    return ResumableDataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),
    )


def epoch_of(loader: ResumableDataLoader, epoch: int) -> list[list[int]]:
    loader.sampler.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def first_batches(loader: ResumableDataLoader, epoch: int, count: int) -> list[Tensor]:
    loader.sampler.set_epoch(epoch)
    batches = iter(loader)
    return [next(batches) for _ in range(count)]


def test_without_a_state_it_is_a_loader() -> None:
    loader = make_loader()
    batches = epoch_of(loader, 0)
    assert len(loader) == 4
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert sorted(number for batch in batches for number in batch) == list(range(10))
    assert epoch_of(loader, 1) != batches


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_it_goes_on_in_the_same_epoch(workers: int, count: int) -> None:
    interrupted = make_loader(workers)
    first_batches(interrupted, epoch=5, count=count)
    state = interrupted.state_dict()
    assert state == {"epoch": 5, "batches": count, "batch_size": 3}
    resumed = make_loader(workers)
    resumed.load_state_dict(state)
    assert epoch_of(resumed, 5) == epoch_of(make_loader(), 5)[count:]
    assert resumed.state_dict()["batches"] == 4
    assert epoch_of(resumed, 6) == epoch_of(make_loader(), 6), "the epochs after it are whole"


def test_a_resumed_epoch_can_be_interrupted_again() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 2, "batches": 1, "batch_size": 3})
    first_batches(loader, epoch=2, count=2)
    state = loader.state_dict()
    assert state["batches"] == 3
    again = make_loader()
    again.load_state_dict(state)
    assert epoch_of(again, 2) == epoch_of(make_loader(), 2)[3:]


def test_the_state_of_another_epoch_means_nothing() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 1, "batches": 2, "batch_size": 3})
    assert epoch_of(loader, 2) == epoch_of(make_loader(), 2)
    assert epoch_of(loader, 1) == epoch_of(make_loader(), 1), "a state serves once"


def test_nothing_is_read_of_what_is_left_out() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 0, "batches": 3, "batch_size": 3})
    (batch,) = epoch_of(loader, 0)
    assert loader.dataset.read == batch


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_epoch_may_be_told_after_the_iterator_is_made(workers: int) -> None:
    loader = make_loader(workers)
    batches = iter(loader)
    loader.sampler.set_epoch(3)
    assert [batch.tolist() for batch in batches] == epoch_of(make_loader(), 3)


def test_another_batch_size_cannot_go_on_within_an_epoch() -> None:
    loader = make_loader(batch_size=5)
    loader.load_state_dict({"epoch": 1, "batches": 2, "batch_size": 3})
    with pytest.raises(ValueError, match="begun in batches of 3 and cannot go on in batches of 5"):
        epoch_of(loader, 1)
    loader.load_state_dict({"epoch": 1, "batches": 4, "batch_size": 3})
    assert len(epoch_of(loader, 2)) == 2
