"""The rows of the rounding benchmark, for a small network."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

from benchmarks.rounding import RADIUS, Case, cases, measure
from lipnet.data.spec import CIFAR100_SPEC
from lipnet.layers import GSSOC, MaxMinPermuted
from lipnet.models import LipConvNet


def test_five_rows_for_a_network() -> None:
    def make() -> tuple[torch.nn.Module, torch.Tensor]:
        conv = partial(GSSOC, groups=(2, None))
        model = LipConvNet(3, depth=2, stages=2, initial_channels=4, image_size=8, conv=conv, activation=MaxMinPermuted)
        return model, torch.rand(3, 3, 8, 8)

    torch.manual_seed(0)
    rows = measure(Case("small", make), repeats=1)
    assert [what.split(":")[0] for what, _ in rows] == ["small"] * 5
    bound, cost, deployed, single, ratio = (seen for _, seen in rows)
    assert 0 <= float(deployed) < float(bound) < float(single.split(",")[0])
    radius, share = (float(number) for number in cost.split(", "))
    assert share == pytest.approx(radius / RADIUS, rel=0.1)
    assert re.fullmatch(r"\d+\.\d\d", ratio)


@pytest.mark.slow
def test_the_trained_network_is_one_of_the_cases() -> None:
    """Its deployed and its float32 logits are measured on the digits' test images."""
    torch.manual_seed(0)
    case = cases(images=1)[0]
    rows = measure(case, repeats=1)
    assert "trained on the digits" in case.name
    assert "on 359 images" in rows[2][0]
    assert 0 < float(rows[0][1]) < 1e-8


def test_large_networks_normalise_as_trainings_on_cifar100_do() -> None:
    model, _ = cases(images=1)[-1].make()
    assert isinstance(model, LipConvNet)
    assert model.normalize.mean.flatten().tolist() == pytest.approx(CIFAR100_SPEC.mean)
    assert model.normalize.std == pytest.approx(CIFAR100_SPEC.std)
