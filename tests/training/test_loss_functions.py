"""The losses against their formulas, written out sample by sample in plain floats, and against their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lipnet.training.emma import emma, emma_shift
from lipnet.training.loss_functions import (
    certificate_regularization,
    correct_class_radius,
    logit_annealing,
    multiclass_hinge,
    offset_cross_entropy,
)

CONSTANTS = [1.0, 1 / 0.2668]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "offset": lambda z, y: offset_cross_entropy(z, y, lipschitz_constant=3.7, radius=36 / 255, temperature=0.25),
    "certificate": lambda z, y: certificate_regularization(z, y, lipschitz_constant=3.7, gamma=0.5),
    "annealing": lambda z, y: logit_annealing(z, y, offset=2.0, temperature=0.75, beta=5.0),
    "hinge": lambda z, y: multiclass_hinge(z, y, lipschitz_constant=3.7, radius=0.3),
    "emma": lambda z, y: emma(z, y, lipschitz_constant=3.7, radius=0.3),
}


def make_samples(classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (20,), generator=generator)


def rows(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    return list(zip(logits.tolist(), labels.tolist(), strict=True))


def cross_entropy(row: list[float], weights: list[float]) -> float:
    log_sum = math.log(sum(math.exp(value) for value in row))
    return sum(weight * (log_sum - value) for weight, value in zip(weights, row, strict=True))


def one_hot(label: int, classes: int) -> list[float]:
    return [float(index == label) for index in range(classes)]


def lead(row: list[float], label: int) -> float:
    return row[label] - max(value for index, value in enumerate(row) if index != label)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize(("radius", "temperature"), [(36 / 255, 0.25), (0.0, 1.0), (1.0, 0.1)])
def test_offset_cross_entropy_of_classes(constant: float, radius: float, temperature: float) -> None:
    logits, labels = make_samples()
    expected = 0.0
    for row, label in rows(logits, labels):
        shifted = [value / constant for value in row]
        shifted[label] -= 2 * math.sqrt(2) * radius
        expected += cross_entropy([value / temperature for value in shifted], one_hot(label, 7)) / 20
    computed = offset_cross_entropy(logits, labels, lipschitz_constant=constant, radius=radius, temperature=temperature)
    assert computed.item() == pytest.approx(expected, rel=1e-12)


def test_offset_cross_entropy_of_probabilities() -> None:
    logits, _ = make_samples()
    labels = torch.rand(20, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = labels / labels.sum(dim=1, keepdim=True)
    expected = 0.0
    for row, weights in zip(logits.tolist(), labels.tolist(), strict=True):
        shifted = [(z / 3.7 - 2 * math.sqrt(2) * 0.2 * q) / 0.5 for z, q in zip(row, weights, strict=True)]
        expected += cross_entropy(shifted, weights) / 20
    computed = offset_cross_entropy(logits, labels, lipschitz_constant=3.7, radius=0.2, temperature=0.5)
    assert computed.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_certificate_regularization(constant: float, gamma: float) -> None:
    logits, labels = make_samples()
    leads = [lead(row, label) for row, label in rows(logits, labels)]
    assert min(leads) < 0 < max(leads), "both sides of the kink are needed"
    entropy = sum(cross_entropy(row, one_hot(label, 7)) for row, label in rows(logits, labels)) / 20
    radius = sum(max(0.0, value / (math.sqrt(2) * constant)) for value in leads) / 20
    computed = certificate_regularization(logits, labels, lipschitz_constant=constant, gamma=gamma)
    assert computed.item() == pytest.approx(entropy - gamma * radius, rel=1e-12)


@pytest.mark.parametrize(("offset", "temperature", "beta"), [(2.0, 0.75, 5.0), (0.0, 1.0, 0.0), (1.0, 2.0, 0.5)])
def test_logit_annealing(offset: float, temperature: float, beta: float) -> None:
    logits, labels = make_samples()
    expected = 0.0
    for row, label in rows(logits, labels):
        exponentials = [math.exp((z - offset * (j == label)) / temperature) for j, z in enumerate(row)]
        p = exponentials[label] / sum(exponentials)
        expected -= temperature * (1 - p) ** beta * math.log(p) / 20
    computed = logit_annealing(logits, labels, offset=offset, temperature=temperature, beta=beta)
    assert computed.item() == pytest.approx(expected, rel=1e-11)


def test_logit_annealing_without_its_factor_is_cross_entropy() -> None:
    logits, labels = make_samples()
    computed = logit_annealing(logits, labels, offset=0.0, temperature=1.0, beta=0.0)
    assert computed.item() == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-14)


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_logit_annealing_has_finite_gradients_at_certainty(scale: float) -> None:
    logits = torch.tensor([[scale, 0.0, -scale]], requires_grad=True)
    for label in range(3):
        logits.grad = None
        logit_annealing(logits, torch.tensor([label]), offset=2.0, temperature=0.75, beta=0.5).backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("radius", [0.0, 36 / 255, 2.0])
def test_multiclass_hinge(constant: float, radius: float) -> None:
    logits, labels = make_samples()
    expected = 0.0
    for row, label in rows(logits, labels):
        radii = [(row[label] - other) / (math.sqrt(2) * constant) for j, other in enumerate(row) if j != label]
        expected += sum(max(0.0, radius - each) for each in radii) / 20
    computed = multiclass_hinge(logits, labels, lipschitz_constant=constant, radius=radius)
    assert computed.item() == pytest.approx(expected, rel=1e-12)


def test_multiclass_hinge_pushes_all_classes_that_are_too_near() -> None:
    logits = torch.tensor([[3.0, 2.9, 2.8, 0.0]], requires_grad=True)
    multiclass_hinge(logits, torch.tensor([0]), lipschitz_constant=1 / math.sqrt(2), radius=1.0).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [pytest.approx([-2.0, 1.0, 1.0, 0.0])]


def test_the_radius_of_the_correct_class_in_two_classes() -> None:
    logits = torch.tensor([[5.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    radius = correct_class_radius(logits, torch.tensor([0, 0]), lipschitz_constant=3.0)
    assert radius.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)], rel=1e-15)


def test_the_radius_of_pairs_is_the_smallest_quotient() -> None:
    logits, labels = make_samples()
    classes = logits.shape[1]
    generator = torch.Generator().manual_seed(1)
    constants = 0.1 + torch.rand(classes, classes, generator=generator, dtype=torch.float64)
    constants.fill_diagonal_(0.0)
    computed = correct_class_radius(logits, labels, constants)
    others_than_the_runner_up = 0
    for row, label, radius in zip(logits.tolist(), labels.tolist(), computed.tolist(), strict=True):
        others = [j for j in range(classes) if j != label]
        quotients = {j: (row[label] - row[j]) / constants[label, j].item() for j in others}
        assert radius == pytest.approx(min(quotients.values()), rel=1e-12)
        others_than_the_runner_up += min(others, key=quotients.__getitem__) != max(others, key=row.__getitem__)
    assert others_than_the_runner_up > 3


def test_the_radius_of_pairs_has_the_gradients_of_logits_and_constants() -> None:
    logits, labels = make_samples(classes=4)
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(logits: Tensor, rows: Tensor) -> Tensor:
        return correct_class_radius(logits, labels, torch.cdist(rows, rows))

    assert torch.autograd.gradcheck(function, (logits.requires_grad_(), rows.requires_grad_()))


def test_equal_rows_have_finite_radii_and_gradients() -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]], requires_grad=True)
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    radius = correct_class_radius(logits, torch.tensor([0, 0]), torch.cdist(rows, rows))
    radius.sum().backward()
    for value in (radius, logits.grad, rows.grad):
        assert bool(value.isfinite().all())


@pytest.mark.parametrize("constants", [torch.ones(3, 2), torch.ones(3), torch.ones(3, 3, dtype=torch.int64)])
def test_constants_of_pairs_that_do_not_fit_are_refused(constants: Tensor) -> None:
    with pytest.raises(ValueError, match=r"or floating of shape \(3, 3\) for pairs of logits, got torch"):
        correct_class_radius(torch.zeros(2, 3), torch.tensor([0, 1]), constants)


# EMMA holds its distances, so that finite differences see another function.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "emma"])
def test_gradients(name: str) -> None:
    logits, labels = make_samples(classes=4)
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, labels), (logits.requires_grad_(),))


@pytest.mark.parametrize("name", ["offset", "certificate", "hinge"])
def test_scaling_images_and_logits_together_changes_no_radius(name: str) -> None:
    """Multiplying logits by K and the constant by K must not change radii in pixels."""
    logits, labels = make_samples()
    functions = {
        "offset": lambda z, K: offset_cross_entropy(z, labels, lipschitz_constant=K, radius=0.1, temperature=0.25),
        "certificate": lambda z, K: (
            certificate_regularization(z, labels, lipschitz_constant=K, gamma=1.0)
            - nn.functional.cross_entropy(z, labels)
        ),
        "hinge": lambda z, K: multiclass_hinge(z, labels, lipschitz_constant=K, radius=0.1),
    }
    function = functions[name]
    assert function(4.0 * logits, 4.0).item() == pytest.approx(function(logits, 1.0).item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_taken_as_they_are(name: str, dtype: torch.dtype) -> None:
    logits, labels = make_samples()
    half = logits.to(dtype)
    computed = LOSSES[name](half, labels)
    assert computed.dtype == torch.float32
    assert computed.item() == pytest.approx(LOSSES[name](half.double(), labels).item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            torch.zeros(3),
            torch.zeros(3, dtype=torch.int64),
            r"logits must be floating .*float32 \(3,\)",
        ),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), r"C >= 2, got torch\.float32 \(3, 1\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3, dtype=torch.int64), r"got torch\.int64 \(3, 2\)"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"\(3,\).* got torch\.int64 \(4,\)"),
        (torch.zeros(3, 2), torch.zeros(3), r"got torch\.float32 \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 3), r"got torch\.float32 \(3, 3\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name: str, logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](logits, labels)


@pytest.mark.parametrize("name", ["certificate", "annealing", "hinge"])
def test_losses_of_the_correct_class_refuse_mixed_labels(name: str) -> None:
    with pytest.raises(ValueError, match=r"int64 classes of shape \(3,\).*mixed labels need a cross-entropy"):
        LOSSES[name](torch.zeros(3, 2), torch.full((3, 2), 0.5))


def _emma_of(row: list[float], label: int, constants: list[float], radius: float) -> list[float]:
    """The shifted logits of one sample, class by class."""
    shifted = []
    for value, constant in zip(row, constants, strict=True):
        distance = (row[label] - value) / constant if constant else math.inf
        shifted.append(value + constant * min(max(distance, 0.01 * radius), radius))
    shifted[label] = row[label]
    return shifted


@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_emma_is_its_formula(radius: float) -> None:
    logits, labels = make_samples()
    rows_of_head = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for constant in (3.7, torch.cdist(rows_of_head, rows_of_head) * 3.7):
        expected = []
        for row, label in rows(logits, labels):
            own = [math.sqrt(2) * 3.7] * 7 if isinstance(constant, float) else constant[label].tolist()
            shifted = _emma_of(row, label, own, radius)
            expected.append(math.log(sum(math.exp(value - shifted[label]) for value in shifted)))
        loss = emma(logits, labels, lipschitz_constant=constant, radius=radius)
        assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_the_shift_of_emma_closes_margins_and_does_not_pass_them() -> None:
    logits, labels = torch.tensor([[4.0, 3.0, 0.0, 9.0]]), torch.tensor([0])
    shifted = emma_shift(logits, labels, lipschitz_constant=1 / math.sqrt(2), radius=2.0)
    torch.testing.assert_close(shifted, torch.tensor([[4.0, 4.0, 2.0, 9.02]]))


def test_no_gradient_flows_through_the_distances_of_emma() -> None:
    logits, labels = make_samples()
    logits.requires_grad_()
    shifted = emma_shift(logits, labels, lipschitz_constant=2.0, radius=0.5)
    (gradient,) = torch.autograd.grad(shifted.sum(), logits)
    assert torch.equal(gradient, torch.ones_like(logits))


def test_emma_pulls_the_rows_of_a_head_apart_or_together() -> None:
    head = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    logits, labels = make_samples()
    distances = torch.cdist(head, head, compute_mode="donot_use_mm_for_euclid_dist")
    emma(logits, labels, lipschitz_constant=distances, radius=0.3).backward()
    assert head.grad is not None
    assert bool(head.grad.isfinite().all())
    assert bool((head.grad != 0).any())


def test_the_gradient_of_emma_is_that_of_the_cross_entropy_at_the_shifted_logits() -> None:
    logits, labels = make_samples()
    logits.requires_grad_()
    shifted = emma_shift(logits, labels, lipschitz_constant=3.7, radius=0.3).detach()
    (gradient,) = torch.autograd.grad(emma(logits, labels, lipschitz_constant=3.7, radius=0.3), logits)
    expected = (shifted.softmax(dim=1) - nn.functional.one_hot(labels, 7)) / len(labels)
    torch.testing.assert_close(gradient, expected)
