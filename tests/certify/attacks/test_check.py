"""Attacks on sound certificates, and on certificates that claim too much."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import (
    PGD,
    Certificates,
    CertificateViolationError,
    UnsoundCertificatesError,
    attack,
    certify,
)
from lipnet.layers import LipschitzModule


@pytest.fixture
def samples(digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return digits[0][:40], digits[1][:40]


@pytest.fixture
def certificates(trained_model: nn.Module, samples: tuple[Tensor, Tensor]) -> Certificates:
    return certify(trained_model, *samples)


def over_claimed(certificates: Certificates, factor: float) -> Certificates:
    return replace(certificates, radius=certificates.radius * factor)


@pytest.mark.slow
def test_certificates_that_are_right_survive_and_the_attack_shows_its_power(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    result = attack(trained_model, *samples, certificates)
    assert (result.distance >= certificates.radius).all()
    assert result.power(1) == 0
    powers = [result.power(factor) for factor in (1, 1.1, 1.2, 1.5, 2)]
    assert powers == sorted(powers)
    assert result.power(1.5) > 0.9, "an attack that never succeeds would show nothing"
    assert result.unconfirmed == 0
    shares = result.accuracies("108/255")
    assert shares["certified"] < shares["under_attack"] < shares["clean"] == certificates.correct.double().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radii_that_claim_too_much_are_found(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    images, labels = samples[0].float(), samples[1]
    certificates = over_claimed(certify(trained_model, images, labels), 1.5)
    model = trained_model.to(dtype)
    with pytest.raises(CertificateViolationError, match=r"image \d+ is certified as class \d within .* L2") as raised:
        attack(model, images, labels, certificates, indices=list(range(1000, 1040)))
    violation = raised.value
    number = violation.index - 1000
    assert violation.original.equal(images[number].double())
    assert violation.radius == certificates.radius[number]
    distance = (violation.original - violation.perturbed).norm().item()
    assert distance <= violation.distance < violation.radius
    assert violation.distance == pytest.approx(distance, rel=1e-9)
    assert 0 <= violation.perturbed.min() <= violation.perturbed.max() <= 1
    exact = model.double()
    predictions = [exact(image.unsqueeze(0)).argmax().item() for image in (violation.original, violation.perturbed)]
    assert predictions == [violation.prediction, violation.perturbed_prediction]
    assert predictions[0] == certificates.prediction[number] != predictions[1]


@pytest.mark.slow
def test_wrong_predictions_are_attacked_as_well(trained_model: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    """Certificates of wrong predictions count, too: here no label is the prediction."""
    images, labels = samples[0], (trained_model(samples[0]).argmax(dim=1) + 1) % 10
    certificates = certify(trained_model, images, labels)
    assert attack(trained_model, images, labels, certificates).power(1.5) > 0.9
    with pytest.raises(CertificateViolationError):
        attack(trained_model, images, labels, over_claimed(certificates, 1.5))


def test_a_bound_that_is_too_small_is_found() -> None:
    images = torch.tensor([[0.9, 0.1], [0.4, 0.5]], dtype=torch.float64).view(2, 1, 1, 2)
    labels = torch.tensor([0, 1])
    model = nn.Flatten().eval()
    certificates = certify(model, images, labels, lipschitz=0.5)
    with pytest.raises(CertificateViolationError) as raised:
        attack(model, images, labels, certificates)
    exact = 0.8 / np.sqrt(2)
    assert raised.value.index == 0
    assert exact * (1 - 1e-6) <= raised.value.distance <= exact * 1.01
    assert raised.value.radius == pytest.approx(2 * exact, rel=1e-6)


def test_fixed_radii_are_attacked_as_they_are() -> None:
    """0.1 rounded to float32 is larger: a change found there would not count at 0.1."""
    epsilons: list[float] = []

    class Recording:
        def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
            epsilons.extend(epsilon.tolist())
            return images

    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double().eval()
    nn.init.eye_(model[1].weight)
    images, labels = torch.tensor([[[[0.9, 0.1]]]], dtype=torch.float64), torch.tensor([0])
    attack(model, images, labels, certify(model, images, labels), attacker=Recording(), radii=["0.1"])
    assert epsilons[-1] == 0.1


def test_certificates_in_another_order_are_found_out(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    prediction, radius = certificates.prediction.roll(1), certificates.radius.roll(1)
    shifted = Certificates(prediction, radius, prediction == samples[1])
    with pytest.raises(CertificateViolationError):
        attack(trained_model, *samples, shifted)
    with pytest.raises(ValueError, match=r"disagree on which predictions are right"):
        attack(trained_model, *samples, replace(certificates, correct=~certificates.correct))
    for value in (-0.1, math.nan):
        radius = certificates.radius.clone()
        radius[0] = value
        with pytest.raises(ValueError, match="radii must be at least 0, got negative ones or NaN"):
            attack(trained_model, *samples, replace(certificates, radius=radius))


@dataclass(frozen=True)
class Jump:
    """An attack that returns one known image, whatever its prediction or distance."""

    target: Tensor

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        return self.target.expand_as(images).to(images)


def test_what_lies_outside_of_the_radius_is_no_violation(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    """The distance is measured, not taken from the attack: the first image is far from the others."""
    result = attack(trained_model, *samples, certificates, attacker=Jump(samples[0][0]))
    other = certificates.prediction != certificates.prediction[0]
    distances = (samples[0] - samples[0][0]).flatten(1).norm(dim=1)
    assert result.distance[other].isfinite().all()
    assert (result.distance <= distances * (1 + 1e-9))[other].all()
    assert result.distance[~other].isinf().all(), "an image of the same prediction is no flip"


def test_what_is_no_image_is_no_violation() -> None:
    """The prediction changes where the pixel is 1.5, and images have no such pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0], [-1.0]]))
        model[1].bias.copy_(torch.tensor([-1.5, 0.0]))
    image, one = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([1])
    far = Certificates(one, torch.tensor([10.0], dtype=torch.float64), torch.tensor([True]))
    assert model(torch.full_like(image, 2.0)).argmax() == 0
    result = attack(model, image, one, far, attacker=Jump(torch.full((1, 1, 1), 2.0)))
    assert result.distance.isinf().all()


@dataclass(frozen=True)
class Broken:
    """An attack that returns something else than images."""

    change: Callable[[Tensor], Tensor]

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        return self.change(images)


@pytest.mark.parametrize("change", [lambda x: x[:1], lambda x: x[..., :4], lambda x: x * nan, lambda x: x + inf])
def test_an_attack_that_returns_no_images_is_refused(
    trained_model: nn.Module,
    samples: tuple[Tensor, Tensor],
    certificates: Certificates,
    change: Callable[[Tensor], Tensor],
) -> None:
    """Its figures would be those of an attack that finds nothing."""
    with pytest.raises(ValueError, match=r"Broken\.perturb must return finite images of shape"):
        attack(trained_model, *samples, certificates, attacker=Broken(change))


def test_flips_of_single_precision_alone_do_not_count(samples: tuple[Tensor, Tensor]) -> None:
    """float32 loses the margin: the prediction of the moved image changes in float32 only."""

    class Rounded(LipschitzModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1)[:, :1]
            return torch.cat([first * 0 + 1e8, 1e8 + first * self.weight], dim=1)

        def lipschitz_bound(self) -> float:
            return 1.0

    model = Rounded().eval()
    images = torch.full((1, 1, 1, 1), 0.5)
    one = torch.tensor([1])
    # float32 rounds 1e8 + 0.5 to 1e8 and predicts class 0; float64 predicts class 1.
    certificates = Certificates(one, torch.tensor([0.25], dtype=torch.float64), torch.tensor([True]))
    result = attack(model, images, one, certificates, attacker=Jump(torch.full((1, 1, 1), 0.4)), radii=["0.2"])
    assert result.unconfirmed > 0
    assert result.distance.isinf().all()
    assert result.accuracies("0.2")["under_attack"] == 1


def test_the_model_stays_as_it_was(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    before = {name: value.clone() for name, value in trained_model.state_dict().items()}
    attack(trained_model, *samples, certificates, attacker=PGD(steps=2, restarts=1))
    assert all(before[name].equal(value) for name, value in trained_model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trained_model.parameters())


@pytest.mark.slow
def test_the_size_of_batches_changes_little(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    settings: dict[str, Any] = {"attacker": PGD(steps=10, restarts=1), "factors": [1.2], "radii": ["36/255"]}
    together = attack(trained_model, *samples, certificates, **settings)
    split = attack(trained_model, *samples, certificates, batch_size=7, **settings)
    torch.testing.assert_close(split.distance, together.distance, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factors": [1.0]}, r"factors must be finite and more than 1, got \[1\.0\]"),
        ({"factors": [float("inf")]}, r"factors must be finite and more than 1"),
        ({"radii": ["far"]}, r"number such as '36/255' or 0\.5, got 'far'"),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(
    trained_model: nn.Module,
    samples: tuple[Tensor, Tensor],
    certificates: Certificates,
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        attack(trained_model, *samples, certificates, **settings)


def test_what_does_not_belong_together_is_refused(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    fewer = replace(certificates, radius=certificates.radius[:5])
    with pytest.raises(ValueError, match=r"those of 40 images, got tensors of shapes .*\(5,\)"):
        attack(trained_model, *samples, fewer)
    with pytest.raises(ValueError, match="in training mode"):
        attack(trained_model.train(), *samples, certificates)


def test_a_violation_is_saved_whole(tmp_path: Path) -> None:
    original, perturbed = torch.rand(1, 2, 2).double(), torch.rand(1, 2, 2).double()
    violation = CertificateViolationError(7, original, perturbed, 0.25, 0.5, 3, 4)
    assert isinstance(violation, UnsoundCertificatesError)
    violation.save(tmp_path / "violation.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["violation.npz"]
    with np.load(tmp_path / "violation.npz") as saved:
        values = {name: saved[name].tolist() for name in saved.files}
    assert values.pop("original") == original.tolist()
    assert values.pop("perturbed") == perturbed.tolist()
    assert values == {"index": 7, "distance": 0.25, "radius": 0.5, "prediction": 3, "perturbed_prediction": 4}
    assert str(violation).endswith(f"both images are in {tmp_path / 'violation.npz'}")


def test_the_nearest_images_of_an_attack_are_where_it_says(
    trained_model: nn.Module, samples: tuple[Tensor, Tensor], certificates: Certificates
) -> None:
    images, labels = samples
    result = attack(trained_model, images, labels, certificates, attacker=PGD(steps=10, restarts=1), radii=["1"])
    assert result.nearest is not None
    assert result.nearest_prediction is not None
    distance = (result.nearest.double() - images).flatten(1).norm(dim=1)
    flipped = result.distance.isfinite()
    assert flipped.any()
    torch.testing.assert_close(distance[flipped], result.distance[flipped], rtol=1e-5, atol=1e-6)
    assert (result.nearest_prediction != certificates.prediction)[flipped].all()
    assert torch.equal(result.nearest_prediction[~flipped], certificates.prediction[~flipped])
