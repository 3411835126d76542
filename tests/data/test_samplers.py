"""Tests of lipnet.data.samplers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lipnet.data import EpochSampler, ShardSampler


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 10])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_shards_count_every_sample_once(length: int, num_replicas: int) -> None:
    shards = [list(ShardSampler(range(length), num_replicas, rank)) for rank in range(num_replicas)]
    for rank, shard in enumerate(shards):
        assert shard == [position for position in range(length) if position % num_replicas == rank]
        assert len(ShardSampler(range(length), num_replicas, rank)) == len(shard)
    assert sorted(position for shard in shards for position in shard) == list(range(length))


def test_batches_of_a_short_shard() -> None:
    dataset = TensorDataset(torch.arange(5))
    loader = DataLoader(dataset, batch_size=2, sampler=ShardSampler(dataset, num_replicas=2, rank=1))
    assert len(loader) == 1
    assert [batch.tolist() for (batch,) in loader] == [[1, 3]]


def test_training_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(range(11), num_replicas=1, rank=0, seed=5)
    for epoch in (0, 1, 2, 1):
        sampler.set_epoch(epoch)
        expected = torch.randperm(11, generator=torch.Generator().manual_seed(5 + epoch)).tolist()
        torch.manual_seed(epoch)
        assert list(sampler) == [(epoch, position) for position in expected]


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_training_shares_cover_the_samples_evenly(num_replicas: int) -> None:
    samplers = [EpochSampler(range(11), num_replicas, rank, seed=0) for rank in range(num_replicas)]
    shares = [[position for _, position in sampler] for sampler in samplers]
    assert {len(share) for share in shares} == {-(-11 // num_replicas)}
    assert set().union(*shares) == set(range(11))


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_outside_the_world(rank: int) -> None:
    with pytest.raises(ValueError, match=f"Invalid rank {rank}"):
        ShardSampler(range(4), num_replicas=2, rank=rank)
    with pytest.raises(ValueError, match=f"Invalid rank {rank}"):
        EpochSampler(range(4), num_replicas=2, rank=rank, seed=0)
