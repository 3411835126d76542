"""The modules of the losses: their functions, settings and constants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipnet.training import (
    EMMA,
    AnnealedEMMA,
    CertificateRegularization,
    LogitAnnealing,
    MulticlassHinge,
    OffsetCrossEntropy,
)
from lipnet.training.emma import emma, emma_shift
from lipnet.training.loss_functions import (
    certificate_regularization,
    logit_annealing,
    multiclass_hinge,
    offset_cross_entropy,
)
from lipnet.training.losses import LipschitzLoss

LOSSES_WITH_CONSTANT = [OffsetCrossEntropy, CertificateRegularization, MulticlassHinge, EMMA, AnnealedEMMA]


def make_samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 5, generator=generator), torch.randint(5, (20,), generator=generator)


def test_each_module_is_its_function_with_its_settings() -> None:
    logits, labels = make_samples()
    pairs = [
        (
            OffsetCrossEntropy("72/255", temperature=0.5, lipschitz_constant=2.0),
            offset_cross_entropy(logits, labels, lipschitz_constant=2.0, radius=72 / 255, temperature=0.5),
        ),
        (
            CertificateRegularization(gamma=0.3, lipschitz_constant=2.0),
            certificate_regularization(logits, labels, lipschitz_constant=2.0, gamma=0.3),
        ),
        (
            LogitAnnealing(offset=1.0, temperature=0.5, beta=3.0),
            logit_annealing(logits, labels, offset=1.0, temperature=0.5, beta=3.0),
        ),
        (
            MulticlassHinge(0.5, lipschitz_constant=2.0),
            multiclass_hinge(logits, labels, lipschitz_constant=2.0, radius=0.5),
        ),
    ]
    for module, expected in pairs:
        assert module(logits, labels).equal(expected)


def test_the_published_settings_are_the_defaults() -> None:
    offset, annealing = OffsetCrossEntropy(), LogitAnnealing()
    assert (offset.radius, offset.temperature) == (36 / 255, 0.25)
    assert (annealing.offset, annealing.temperature, annealing.beta) == (2.0, 0.75, 5.0)


@pytest.mark.parametrize("loss", LOSSES_WITH_CONSTANT)
def test_a_loss_without_its_constant_says_so(loss: type[LipschitzLoss]) -> None:
    with pytest.raises(ValueError, match=rf"{loss.__name__} needs the Lipschitz constant .*: set lipschitz_constant"):
        loss()(*make_samples())


@pytest.mark.parametrize("loss", LOSSES_WITH_CONSTANT)
def test_a_network_makes_another_loss(loss: type[LipschitzLoss]) -> None:
    without = loss()
    filled = without.for_network(2.0)
    assert filled(*make_samples()).equal(loss(lipschitz_constant=2.0)(*make_samples()))
    assert without.lipschitz_constant is None
    assert filled.for_network(3.0).lipschitz_constant == 2.0, "a constant that is stated stands"


@pytest.mark.parametrize("loss", [CertificateRegularization(gamma=0.3), MulticlassHinge(10.0)])
def test_radii_are_measured_by_the_distances_of_the_rows_as_they_are(loss: LipschitzLoss) -> None:
    """Distances of sqrt(2) equal the constant for all logits; half of them double every radius."""
    distances = torch.full((5, 5), 2**0.5)
    module = loss.for_network(2.0, lambda: distances)
    before = module(*make_samples()).item()
    assert before == pytest.approx(loss.for_network(2.0)(*make_samples()).item(), rel=1e-6)
    distances /= 2
    halved = module(*make_samples()).item()
    assert halved == pytest.approx(loss.for_network(1.0)(*make_samples()).item(), rel=1e-6)
    assert halved != pytest.approx(before, rel=1e-3)


def test_the_offset_is_the_same_for_every_head() -> None:
    distances = torch.full((5, 5), 0.5)
    offset = OffsetCrossEntropy()
    assert offset.for_network(2.0, lambda: distances)(*make_samples()).equal(offset.for_network(2.0)(*make_samples()))


@pytest.mark.parametrize("constant", [0.0, -1.0, float("inf"), float("nan")])
def test_constants_that_are_none_are_refused(constant: float) -> None:
    with pytest.raises(ValueError, match="lipschitz_constant must be positive and finite, got"):
        CertificateRegularization(lipschitz_constant=constant)
    with pytest.raises(ValueError, match="lipschitz_constant must be positive and finite, got"):
        CertificateRegularization().for_network(constant)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OffsetCrossEntropy("far"), "number such as '36/255' or 0.5, got 'far'"),
        (lambda: OffsetCrossEntropy(-0.1), "at least 0, got -0.1"),
        (lambda: OffsetCrossEntropy(temperature=0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: CertificateRegularization(gamma=-1.0), "gamma must be finite and at least 0, got -1.0"),
        (lambda: LogitAnnealing(offset=-2.0), "offset must be finite and at least 0, got -2.0"),
        (lambda: LogitAnnealing(temperature=float("nan")), "temperature must be positive and finite, got nan"),
        (lambda: LogitAnnealing(beta=float("inf")), "beta must be finite and at least 0, got inf"),
        (lambda: MulticlassHinge("1/0"), "number such as '36/255' or 0.5, got '1/0'"),
    ],
)
def test_settings_out_of_range_are_refused(make: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.2), (0.1, 0.65), (0.4, 2.0), (0.9, 2.0)])
def test_the_radius_of_emma_grows_with_the_training(progress: float, factor: float) -> None:
    loss = EMMA("1/2", first=0.2, last=2.0, ramp=0.4, lipschitz_constant=3.0)
    loss.progress = progress
    assert loss.present_radius() == pytest.approx(factor / 2)
    logits, labels = make_samples()
    assert loss(logits, labels).item() == pytest.approx(
        emma(logits, labels, lipschitz_constant=3.0, radius=factor / 2).item()
    )


def test_annealed_emma_is_logit_annealing_of_the_shifted_logits() -> None:
    logits, labels = make_samples()
    loss = AnnealedEMMA("1/4", offset=1.0, temperature=0.5, beta=3.0, lipschitz_constant=2.0)
    shifted = emma_shift(logits, labels, lipschitz_constant=2.0, radius=0.1 / 4)
    assert loss(logits, labels).equal(logit_annealing(shifted, labels, offset=1.0, temperature=0.5, beta=3.0))


def test_the_published_ramp_is_the_default() -> None:
    loss = EMMA()
    assert (loss.radius, loss.first, loss.last, loss.ramp) == (36 / 255, 0.1, 3.0, 0.5)


@pytest.mark.parametrize("settings", [{"first": 0.0}, {"last": -1.0}, {"ramp": 0.0}, {"ramp": 1.5}, {"radius": 0.0}])
def test_settings_of_emma_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} must be"):
        EMMA(**settings)  # type: ignore[arg-type]
