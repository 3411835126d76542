"""Channel shuffles against their formulas, index by index."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lipnet.functional.permutations import channel_shuffle, channel_unshuffle, check_shuffle, shuffle_permutation
from tests.oracles import shuffle_places

SETTINGS = [
    (channels, groups, paired)
    for channels in (1, 2, 4, 6, 8, 12, 16, 24, 48)
    for groups in (1, 2, 3, 4, 6, 8)
    for paired in (False, True)
    if channels % (groups * (2 if paired else 1)) == 0
]


@pytest.mark.parametrize(("channels", "groups", "paired"), SETTINGS)
def test_formula_and_bijection(channels: int, groups: int, paired: bool) -> None:
    places = shuffle_permutation(channels, groups, paired)
    assert places.dtype == torch.int64
    assert places.tolist() == shuffle_places(channels, groups, paired)
    assert sorted(places.tolist()) == list(range(channels))


@pytest.mark.parametrize(("channels", "groups", "paired"), SETTINGS)
def test_channel_i_goes_to_place_sigma_of_i_and_back(channels: int, groups: int, paired: bool) -> None:
    x = torch.arange(2 * channels * 3).view(2, channels, 3, 1)
    y = channel_shuffle(x, groups, paired)
    assert y.shape == x.shape
    for source, place in enumerate(shuffle_places(channels, groups, paired)):
        assert torch.equal(y[:, place], x[:, source])
    assert torch.equal(channel_unshuffle(y, groups, paired), x)
    assert torch.equal(channel_shuffle(channel_unshuffle(x, groups, paired), groups, paired), x)


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (8, 4), (12, 3), (48, 4)])
def test_paired_shuffles_keep_pairs_together(channels: int, groups: int) -> None:
    places = shuffle_permutation(channels, groups, paired=True).tolist()
    for first in range(0, channels, 2):
        assert places[first] % 2 == 0
        assert places[first + 1] == places[first] + 1
    # The plain shuffle tears them apart: were both the same, the option would mean nothing.
    plain = shuffle_permutation(channels, groups).tolist()
    assert any(plain[first + 1] != plain[first] + 1 for first in range(0, channels, 2))


@pytest.mark.parametrize(("groups", "paired"), [(4, False), (4, True)])
def test_each_group_receives_from_every_group(groups: int, paired: bool) -> None:
    channels = 2 * groups * groups
    size = channels // groups
    reached = {(i // size, place // size) for i, place in enumerate(shuffle_places(channels, groups, paired))}
    assert len(reached) == groups**2
    x = torch.arange(channels).view(1, channels) // size
    shuffled = channel_shuffle(x, groups, paired).view(groups, size)
    assert all(set(group.tolist()) == set(range(groups)) for group in shuffled)


def test_any_number_of_trailing_dimensions() -> None:
    x = torch.arange(12).view(1, 12)
    expected = channel_shuffle(x, 3)
    for shape in ((1, 12, 1), (1, 12, 1, 1), (1, 12, 1, 1, 1)):
        assert torch.equal(channel_shuffle(x.view(shape), 3), expected.view(shape))


def test_an_empty_batch_stays_empty() -> None:
    x = torch.zeros(0, 8, 3, 3)
    assert channel_shuffle(x, 2, paired=True).shape == x.shape
    assert channel_unshuffle(x, 2).shape == x.shape


@pytest.mark.parametrize("shuffle", [channel_shuffle, channel_unshuffle])
def test_channels_that_do_not_divide_are_refused(shuffle: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(
        ValueError, match=r"channels must be divisible by 4 for a shuffle with 4 groups, got 6 channels"
    ):
        shuffle(torch.zeros(1, 6, 2, 2), 4)
    with pytest.raises(ValueError, match=r"divisible by 2 \* groups = 8 for a paired shuffle .*, got 12 channels"):
        shuffle(torch.zeros(1, 12, 2, 2), 4, paired=True)


@pytest.mark.parametrize("groups", [0, -2, float("nan"), 2.0])
def test_groups_below_one_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups must be an integer of at least 1, got {groups}"):
        shuffle_permutation(8, groups)
    with pytest.raises(ValueError, match=f"groups must be an integer of at least 1, got {groups}"):
        check_shuffle(8, groups, paired=True)
