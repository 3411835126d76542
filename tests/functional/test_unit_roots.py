"""Roots of unity have a small relative error in both parts, and exact zeros."""

from __future__ import annotations

import mpmath
import pytest
import torch

from lipnet.functional.frequency import frequency_response
from lipnet.functional.rounding_error import ELEMENTARY, UNIT
from lipnet.functional.spectral import _waves
from lipnet.functional.unit_roots import unit_roots


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 12, 32, 97])
def test_both_parts_have_a_small_relative_error(length: int) -> None:
    turns = range(-length, 2 * length)
    found = unit_roots(torch.tensor(turns), length)
    with mpmath.workprec(300):
        for k, root in zip(turns, found.tolist(), strict=True):
            angle = mpmath.mpf(2 * k) / length
            for part, true in ((root.real, mpmath.cospi(angle)), (root.imag, mpmath.sinpi(angle))):
                assert abs(part - true) <= (3 + ELEMENTARY) * UNIT * abs(true)


def test_responses_at_frequencies_that_are_their_own_conjugates_are_real() -> None:
    """Noise in their imaginary parts would be subnormal in products, and slow."""
    response = frequency_response(torch.randn(4, 4, 5, 3), (8, 6))
    alone = response[[0, 0, 4, 4], [0, 3, 0, 3]]
    assert alone.imag.count_nonzero() == 0
    assert response.imag.count_nonzero() > 0


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (8, 8), (5, 3)])
def test_waves_of_two_directions_are_those_of_a_transform(size: tuple[int, int]) -> None:
    waves = _waves(size)
    maps = torch.eye(waves.shape[0], dtype=torch.float64).view(-1, *size)
    torch.testing.assert_close(torch.fft.rfft2(maps).flatten(1), waves, rtol=0, atol=1e-14)
    parts = torch.view_as_real(waves)
    assert parts[parts != 0].abs().min() > 0.01, "no rounded zeros"
