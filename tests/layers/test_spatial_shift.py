"""Shifts of channels by a pixel, alone and between rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.certify import lipschitz_bound
from lipnet.layers import SpatialMixing, SpatialShift
from tests.oracles import dense_jacobian, spectral_norm

# By how much each part of the channels moves: rows, columns.
MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)]


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
def test_each_part_moves_in_its_direction(padding_mode: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 11, 3, 4))
    shifted = SpatialShift(2 / 11, padding_mode)(torch.from_numpy(x)).numpy()
    for channel in range(11):
        down, right = MOVES[min(channel // 2, 4)]
        expected = np.roll(x[:, channel], (down, right), axis=(1, 2))
        if padding_mode == "zeros":
            if down:
                expected[:, 0 if down > 0 else -1] = 0
            if right:
                expected[:, :, 0 if right > 0 else -1] = 0
        np.testing.assert_array_equal(shifted[:, channel], expected)


@pytest.mark.parametrize("share", [1 / 16, 0.25])
def test_a_circular_shift_is_an_isometry_and_zero_padding_a_contraction(share: float) -> None:
    x = torch.rand(1, 16, 3, 3, dtype=torch.float64)
    for padding_mode in ("circular", "zeros"):
        jacobian = dense_jacobian(SpatialShift(share, padding_mode), x)
        assert spectral_norm(jacobian) == 1.0
        assert np.array_equal(jacobian @ jacobian.T, np.eye(len(jacobian))) == (padding_mode == "circular")


@pytest.mark.parametrize("groups", [1, 2])
def test_mixing_is_the_shift_in_rotated_channels(groups: int) -> None:
    torch.manual_seed(0)
    layer = SpatialMixing(8, groups, share=0.25).double().eval()
    x = torch.rand(1, 8, 3, 3, dtype=torch.float64)
    rotation = dense_jacobian(layer.rotation, x)
    expected = rotation.T @ dense_jacobian(layer.shift, x) @ rotation
    jacobian = dense_jacobian(layer, x)
    np.testing.assert_allclose(jacobian, expected, atol=1e-13)
    assert spectral_norm(jacobian) <= lipschitz_bound(layer) < 1 + 1e-9


def test_drift_of_the_rotation_counts_twice() -> None:
    layer = SpatialMixing(8, share=0.25, parametrization="manifold").double().eval()
    with torch.no_grad():
        layer.rotation.weight.mul_(1.1)
    assert 1.21 <= lipschitz_bound(layer) < 1.2101
    assert spectral_norm(dense_jacobian(layer, torch.rand(1, 8, 3, 3, dtype=torch.float64))) == pytest.approx(1.21)


def test_settings_out_of_range_are_refused() -> None:
    for share in (0.0, 0.3, -0.1):
        with pytest.raises(ValueError, match=rf"share must be in \(0, 1/4\], got {share}"):
            SpatialShift(share)
    with pytest.raises(ValueError, match=r"padding_mode must be one of .*, got 'reflect'"):
        SpatialShift(padding_mode="reflect")
    with pytest.raises(ValueError, match=r"needs an input of shape \(B, C, H, W\), got \(3, 4\)"):
        SpatialShift()(torch.zeros(3, 4))


def test_a_shift_of_less_than_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share 0\.0625 of 8 channels is less than one channel.*use a larger share"):
        SpatialShift()(torch.zeros(1, 8, 2, 2))


def test_mixing_has_the_dtype_that_is_asked_for() -> None:
    layer = SpatialMixing(8, share=0.25, device="meta", dtype=torch.float64)
    assert {(each.dtype, each.device.type) for each in layer.parameters()} == {(torch.float64, "meta")}
