"""Tests of lipnet.data.samplers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lipnet.data.samplers import EpochSampler, RatioSampler, ShardSampler


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


def test_skipping_leaves_out_the_first_samples_once() -> None:
    sampler = EpochSampler(range(11), num_replicas=1, rank=0, seed=5)
    whole = list(sampler)
    sampler.skip(4)
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole


def is_extra(sampler: RatioSampler, own: int) -> list[bool]:
    return [position >= own for _, position in sampler]


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("num_replicas", [1, 3])
def test_every_stretch_has_its_share_of_extra_samples(ratio: float, num_replicas: int) -> None:
    for rank in range(num_replicas):
        sampler = RatioSampler(100, 1000, ratio, num_replicas, rank, seed=0)
        extra = is_extra(sampler, 100)
        assert len(extra) == len(sampler) == -(-100 // num_replicas)
        for size in (1, 10, 32):
            for start in range(len(extra) - size + 1):
                assert abs(sum(extra[start : start + size]) - ratio * size) < 1 + 1e-9


@pytest.mark.parametrize("ratio", [0.3, 0.7])
def test_batches_of_a_size_that_the_ratio_divides_have_it_exactly(ratio: float) -> None:
    extra = is_extra(RatioSampler(100, 1000, ratio, 1, 0, seed=0), 100)
    assert [sum(extra[start : start + 10]) for start in range(0, 100, 10)] == [round(10 * ratio)] * 10


def test_mixed_order_is_a_function_of_seed_and_epoch() -> None:
    sampler, other = RatioSampler(50, 80, 0.4, 1, 0, seed=5), RatioSampler(50, 80, 0.4, 1, 0, seed=6)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        torch.manual_seed(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert list(other) != orders[0]
    sampler.skip(7)
    assert list(sampler) == orders[0][7:]
    own = [position for _, position in orders[0] if position < 50]
    plain = EpochSampler(range(50), 1, 0, seed=5)
    assert own == [position for _, position in plain][: len(own)]


def test_no_sample_comes_twice_and_no_epochs_extra_samples_are_the_same() -> None:
    sampler, seen = RatioSampler(100, 1000, 0.5, 1, 0, seed=0), []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        positions = [position for _, position in sampler]
        assert len(set(positions)) == 100
        assert max(positions) < 1100
        seen.append({position for position in positions if position >= 100})
    assert len(seen[0] & seen[1]) < 20


def test_few_extra_samples_come_again_in_another_pass() -> None:
    sampler = RatioSampler(100, 20, 0.5, 1, 0, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        extra = [(number, position - 100) for number, position in sampler if position >= 100]
        assert [number for number, _ in extra] == [3 * epoch] * 20 + [3 * epoch + 1] * 20 + [3 * epoch + 2] * 10
        assert sorted(position for _, position in extra[:20]) == list(range(20))
        assert [position for _, position in extra[:20]] != [position for _, position in extra[20:40]]


def test_processes_share_the_extra_samples() -> None:
    shares = [{position for _, position in RatioSampler(100, 1000, 0.5, 2, rank, seed=0)} for rank in range(2)]
    assert not shares[0] & shares[1]


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, float("nan")])
def test_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"ratio must lie strictly between 0 and 1, got {ratio}"):
        RatioSampler(10, 10, ratio, 1, 0, seed=0)
    with pytest.raises(ValueError, match="at least one extra sample, got 0"):
        RatioSampler(10, 0, 0.5, 1, 0, seed=0)
