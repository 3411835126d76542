"""ChannelShuffle against the formulas and against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.layers import ChannelShuffle
from tests.oracles import channel_matrix, dense_jacobian, permutation_matrix, shuffle_places


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 2), (12, 3), (16, 4)])
def test_the_jacobian_is_the_permutation_and_the_inverse_its_transpose(
    channels: int, groups: int, paired: bool
) -> None:
    layer, x = ChannelShuffle(groups, paired), torch.zeros(1, channels, 2, 1, dtype=torch.float64)
    expected = channel_matrix(permutation_matrix(shuffle_places(channels, groups, paired)), 2)
    np.testing.assert_array_equal(dense_jacobian(layer, x), expected)
    np.testing.assert_array_equal(dense_jacobian(layer.inverse(), x), expected.T)
    np.testing.assert_array_equal(dense_jacobian(layer.inverse().inverse(), x), expected)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_inverse_undoes_it(groups: int, paired: bool) -> None:
    layer = ChannelShuffle(groups, paired)
    x = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.inverse()(layer(x)), x)
    assert torch.equal(layer(layer.inverse()(x)), x)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_the_shuffle_of_torch_is_the_inverse_of_the_plain_one(groups: int) -> None:
    x = torch.randn(2, 24, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nn.ChannelShuffle(groups)(ChannelShuffle(groups)(x)), x)
    assert torch.equal(nn.ChannelShuffle(groups)(x), ChannelShuffle(groups).inverse()(x))
    assert not torch.equal(nn.ChannelShuffle(groups)(x), ChannelShuffle(groups)(x))


def test_it_is_an_isometry_without_parameters() -> None:
    layer = ChannelShuffle(4, paired=True)
    assert layer.lipschitz_bound() == 1.0
    assert layer.state_dict() == {}
    assert repr(layer) == "ChannelShuffle(groups=4, paired=True)"
    assert repr(layer.inverse()) == "ChannelShuffle(groups=4, paired=True, inverted=True)"


@pytest.mark.parametrize("groups", [0, -1, math.nan, math.inf, 2.5])
def test_groups_that_are_no_positive_integer_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups must be an integer of at least 1, got {groups}"):
        ChannelShuffle(groups)


def test_channels_that_do_not_divide_are_refused() -> None:
    x = torch.zeros(1, 12, 2, 2)
    with pytest.raises(ValueError, match=r"channels must be divisible by 5 .*, got 12 channels"):
        ChannelShuffle(5)(x)
    with pytest.raises(ValueError, match=r"divisible by 2 \* groups = 8 for a paired shuffle .*, got 12 channels"):
        ChannelShuffle(4, paired=True)(x)
    with pytest.raises(ValueError, match=r"channels must be divisible by 5 .*, got 12 channels"):
        ChannelShuffle(5).inverse()(x)
