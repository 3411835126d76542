"""Tests of lipnet.data.draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lipnet.data.draws import uniform_integers

MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """SplitMix64's next output, in Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("triple", [(0, 0, 0), (1, 2, 3), (2**32 - 1, 199, 2**32 + 5)])
def test_numbers_are_those_of_the_definition(triple: tuple[int, int, int]) -> None:
    seed, epoch, index = triple
    state = splitmix(splitmix(splitmix(seed) ^ epoch) ^ index)
    bounds = (9, 2, 1, 2**32)
    counters = [(state + number * 0x9E3779B97F4A7C15) & MASK for number in range(4)]
    expected = [((splitmix(counter) >> 32) * bound) >> 32 for counter, bound in zip(counters, bounds, strict=True)]
    assert uniform_integers(seed, [epoch], [index], bounds).tolist() == [expected]


def test_the_mixing_is_the_published_one() -> None:
    """The first outputs of SplitMix64 from the state 0, as its reference implementation gives them."""
    assert splitmix(0) == 0xE220A8397B1DCDAF
    assert splitmix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


def test_numbers_do_not_depend_on_their_company() -> None:
    triples = np.array(list(product(range(5), range(50))))
    together = uniform_integers(3, triples[:, 0], triples[:, 1], (9, 9, 2))
    assert together.dtype == np.int64
    for row, (epoch, index) in zip(together, triples, strict=True):
        assert uniform_integers(3, [epoch], [index], (9, 9, 2))[0].tolist() == row.tolist()
    assert uniform_integers(3, triples[:, 0], triples[:, 1], (9,))[:, 0].tolist() == together[:, 0].tolist()


@pytest.mark.parametrize("bound", [1, 2, 9, 10, 1000])
def test_numbers_are_uniform(bound: int) -> None:
    count = 200_000
    epochs, indices = np.divmod(np.arange(count), 50_000)
    values = uniform_integers(0, epochs, indices, (bound, bound))
    for column in values.T:
        hits = np.bincount(column, minlength=bound)
        assert len(hits) == bound
        statistic = ((hits - count / bound) ** 2 / (count / bound)).sum()
        # The mean of chi-squared is bound - 1, its deviation sqrt(2 (bound - 1)).
        assert abs(statistic - (bound - 1)) <= 4.5 * np.sqrt(2 * (bound - 1))


def test_neighbours_are_independent() -> None:
    """Draws of neighbouring indices, epochs and seeds hit each of 81 pairs of values equally often."""
    count = 50_000
    same, indices = np.zeros(count, dtype=int), np.arange(count)
    draws = uniform_integers(0, same, indices, (9, 9))
    next_epoch, next_seed = (
        uniform_integers(seed, same + epoch, indices, (9,))[:, 0] for seed, epoch in [(0, 1), (1, 0)]
    )
    pairs = [
        (draws[:, 0], draws[:, 1]),
        (draws[:-1, 0], draws[1:, 0]),
        (draws[:, 0], next_epoch),
        (draws[:, 0], next_seed),
    ]
    for first, second in pairs:
        hits = np.bincount(9 * first + second, minlength=81)
        expected = len(first) / 81
        # 80 degrees of freedom: beyond 124.8 has probability 0.001.
        assert ((hits - expected) ** 2 / expected).sum() < 124.8
