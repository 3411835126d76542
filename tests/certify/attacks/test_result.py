"""The figures of an attack, counted by hand."""

from __future__ import annotations

from math import inf

import pytest
import torch

from lipnet.certify import AttackResult, Certificates, UnsoundCertificatesError


def result(radius: list[float], distance: list[float], correct: list[bool]) -> AttackResult:
    certificates = Certificates(torch.zeros(len(radius)).long(), torch.tensor(radius).double(), torch.tensor(correct))
    return AttackResult(certificates, torch.tensor(distance).double(), unconfirmed=0)


def test_accuracies_and_power_by_hand() -> None:
    found = result([0.5, 0.25, 0.125, 0.0, 0.5], [inf, 0.375, 0.125, 0.5, 0.75], [True, True, True, True, False])
    assert found.accuracies("0.25") == {"certified": 0.2, "under_attack": 0.6, "clean": 0.8}
    assert found.accuracies("0.375") == {"certified": 0.2, "under_attack": 0.4, "clean": 0.8}
    # Four images have a radius above 0: they flip at 1, 1.5 and 1.5 times the radius, and never.
    assert [found.power(factor) for factor in (0.9, 1, 1.4, 1.5, 1e9)] == [0.0, 0.25, 0.25, 0.75, 0.75]


def test_no_certified_image_has_no_power() -> None:
    assert result([0.0, 0.0], [inf, inf], [True, False]).power(1.5) is None


def test_shares_out_of_order_are_an_error() -> None:
    found = result([0.5, 0.5], [0.25, inf], [True, True])
    with pytest.raises(UnsoundCertificatesError, match=r"at radius 0\.25 .* certified 1\.0, under attack 0\.5, clean"):
        found.accuracies("0.25")
