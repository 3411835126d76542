"""AutoAttack through its package, where that is installed."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import AutoAttack, attack, certify

installed = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="needs the extra 'attack'; CI installs it"
)


@pytest.fixture
def model() -> nn.Module:
    """A linear classifier of four classes, float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(4, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(dim=1))
    return model.requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    return 0.3 + 0.4 * torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def exact_distances(model: nn.Module, images: Tensor) -> Tensor:
    weight, logits = model[1].weight, model(images)
    prediction = logits.argmax(dim=1)
    away = (weight[prediction].unsqueeze(1) - weight).norm(dim=2)
    margins = logits.gather(1, prediction.unsqueeze(1)) - logits
    return torch.where(away > 0, margins / away, torch.inf).amin(dim=1)


@pytest.mark.slow
@installed
@pytest.mark.parametrize("attacks", [("apgd-ce",), ("apgd-t",), ("fab-t",), ("square",)], ids=str)
def test_each_attack_finds_what_is_far_inside_and_nothing_outside(
    model: nn.Module, images: Tensor, attacks: tuple[str, ...]
) -> None:
    exact, prediction = exact_distances(model, images), model(images).argmax(dim=1)
    attacker = AutoAttack(attacks=attacks, steps=20, queries=200)
    state = torch.random.get_rng_state()
    near = attacker.perturb(model, images, prediction, 0.99 * exact)
    assert (model(near).argmax(dim=1) == prediction).all()
    far = attacker.perturb(model, images, prediction, torch.full((4,), 2.5 * float(exact.max())).double())
    flipped = model(far).argmax(dim=1) != prediction
    assert flipped.double().mean() >= (0.25 if attacks == ("square",) else 1)
    assert 0 <= far.min() <= far.max() <= 1
    assert ((far - images).flatten(1).norm(dim=1) <= 2.5 * exact.max()).all()
    assert state.equal(torch.random.get_rng_state()), "the caller's random numbers are left alone"


@installed
def test_it_takes_the_place_of_pgd(model: nn.Module, images: Tensor) -> None:
    labels = model(images).argmax(dim=1)
    certificates = certify(model, images, labels)
    trace = sys.gettrace()
    attacker = AutoAttack(attacks=("apgd-ce",), steps=10)
    result = attack(model, images, labels, certificates, attacker=attacker, radii=["0.1"], factors=[3.0])
    assert sys.gettrace() is trace
    assert (result.distance >= certificates.radius).all()
    assert result.power(3.0) > 0


@installed
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": ("pgd",)}, r"some of AutoAttack's, got \['pgd'\]"),
        ({"attacks": ()}, r"some of AutoAttack's, got \[\]"),
        ({"queries": 0}, r"queries and steps must be at least 1, got 0 and 100"),
        ({"steps": 0}, r"queries and steps must be at least 1, got 5000 and 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoAttack(**settings)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ValueError, match=r"needs the package pyautoattack: pip install 'lipnet\[attack\]'"):
        AutoAttack()
