"""Tests of lipnet.data.splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.data.splits import stratified_split

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(7), [10, 20, 30, 40, 50, 60, 70]))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_every_class_gives_its_fraction(fraction: float) -> None:
    training, validation = stratified_split(LABELS, fraction, seed=4)
    for label, count in enumerate([10, 20, 30, 40, 50, 60, 70]):
        expected = round(count * fraction)
        assert (LABELS[validation] == label).sum() == expected
        assert (LABELS[training] == label).sum() == count - expected


def test_parts_are_sorted_int64_and_partition_the_samples() -> None:
    training, validation = stratified_split(LABELS, 0.1, seed=0)
    assert training.dtype == np.int64
    assert validation.dtype == np.int64
    assert (np.diff(training) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert sorted([*training, *validation]) == list(range(len(LABELS)))


def test_seed_alone_decides() -> None:
    first = stratified_split(LABELS, 0.1, seed=0)[1]
    np.random.seed(5)
    torch.manual_seed(5)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    again = stratified_split(LABELS.tolist(), 0.1, seed=0)[1]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.random.get_state()[1], states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert not np.array_equal(first, stratified_split(LABELS, 0.1, seed=1)[1])


def test_split_is_the_same_in_every_release() -> None:
    labels = np.tile([0, 1], 10)
    assert stratified_split(labels, 0.3, seed=0)[1].tolist() == [2, 3, 8, 11, 13, 18]


def test_each_sample_is_as_likely_as_any_other() -> None:
    labels = np.zeros(20, dtype=np.int64)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[stratified_split(labels, 0.25, seed)[1]] += 1
    standard_deviation = (2000 * 0.25 * 0.75) ** 0.5
    assert np.abs(counts - 500).max() < 4.5 * standard_deviation


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fraction_outside_the_interval(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {fraction}"):
        stratified_split(LABELS, fraction, seed=0)


@pytest.mark.parametrize(("count", "fraction"), [(4, 0.1), (4, 0.9), (1, 0.5)])
def test_class_too_small(count: int, fraction: float) -> None:
    labels = np.array([0] * 100 + [3] * count)
    with pytest.raises(ValueError, match=f"class 3 has {count} samples, too few for fraction {fraction}"):
        stratified_split(labels, fraction, seed=0)


@pytest.mark.parametrize("labels", [np.zeros((4, 2), dtype=np.int64), np.zeros(4), np.zeros(0, dtype=np.int64)])
def test_labels_of_another_kind(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one-dimensional array of integers, got shape"):
        stratified_split(labels, 0.5, seed=0)


def test_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed must be non-negative, got -1"):
        stratified_split(LABELS, 0.5, seed=-1)
