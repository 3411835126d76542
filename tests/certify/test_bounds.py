"""Certificates of heads that declare a bound for each difference of two logits, where the exact radius is known."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import LogitBounds, certify, certify_dataset, lipschitz_bound, logit_bounds, read_certificates
from lipnet.functional.rounding_error import Signal, Step, elementwise
from lipnet.layers import LipschitzModule, NormalizedLinear
from lipnet.models import LipConvNet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand((count, *(shape or (1, 2, 3))), generator=generator, dtype=torch.float64)


def head(weight: Tensor, bias: Tensor | None = None) -> NormalizedLinear:
    layer = NormalizedLinear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return layer


class Scale(LipschitzModule):
    """Multiplication by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def lipschitz_bound(self) -> float:
        return abs(self.factor)

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=abs(self.factor))


def exact_radius(rows: np.ndarray, bias: np.ndarray, x: np.ndarray) -> list[float]:
    """The distance of each image to the nearest boundary of a linear classifier: over all classes, by hyperplane."""
    radii = []
    for logits in x @ rows.T + bias:
        y = int(logits.argmax())
        others = [j for j in range(len(logits)) if j != y]
        radii.append(min((logits[y] - logits[j]) / np.linalg.norm(rows[y] - rows[j]) for j in others))
    return radii


@pytest.mark.parametrize("factor", [1e-3, 1.0, 3.0, 1e3])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_radius_of_a_linear_classifier_is_the_exact_one(classes: int, factor: float) -> None:
    """Nothing is lost without an orthogonal layer or a projection in between."""
    weight, bias, x = noise(classes, 6), factor * noise(classes, seed=1), images(50)
    model = nn.Sequential(nn.Flatten(), Scale(factor), head(weight, bias)).eval()
    certificates = certify(model, x, torch.zeros(50, dtype=torch.int64))
    rows = factor * (weight / weight.norm(dim=1, keepdim=True)).numpy()
    exact = exact_radius(rows, bias.numpy(), x.flatten(1).numpy())
    assert (certificates.radius > 0).all()
    assert all(radius <= true for radius, true in zip(certificates.radius.tolist(), exact, strict=True))
    assert certificates.radius.tolist() == pytest.approx(exact, rel=1e-6)


def test_a_class_behind_the_runner_up_may_be_the_nearest() -> None:
    """Rows at 0, 10 and 180 degrees: the second class comes second, but its boundary is ten times as far."""
    angles = np.deg2rad([0.0, 10.0, 180.0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = torch.tensor([0.3, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    bias = torch.tensor([0.0, -0.1954, 0.35], dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), head(torch.from_numpy(rows), bias)).eval()
    logits = model(x)[0].tolist()
    assert logits[0] > logits[1] > logits[2]
    (radius,) = certify(model, x, torch.zeros(1, dtype=torch.int64)).radius.tolist()
    assert radius == pytest.approx((logits[0] - logits[2]) / 2, rel=1e-9)
    assert radius < 0.2 * (logits[0] - logits[1]) / np.linalg.norm(rows[0] - rows[1])


def test_just_beyond_the_radius_the_prediction_flips() -> None:
    rows = noise(4, 6)
    model = nn.Sequential(nn.Flatten(), head(rows)).eval()
    x = images(40)
    certificates = certify(model, x, torch.zeros(40, dtype=torch.int64))
    unit = rows / rows.norm(dim=1, keepdim=True)
    logits = model(x).detach()
    for i in range(40):
        y = int(certificates.prediction[i])
        differences = unit - unit[y]
        distances = (logits[i, y] - logits[i]) / differences.norm(dim=1).clamp_min(1e-100)
        distances[y] = inf
        nearest = int(distances.argmin())
        step = differences[nearest] / differences[nearest].norm() * certificates.radius[i]
        moved = [model((x[i].flatten() + factor * step).view(1, 1, 2, 3)).argmax().item() for factor in (0.999, 1.001)]
        assert moved[0] == y
        assert moved[1] != y


def test_it_certifies_more_than_one_bound_for_all_logits() -> None:
    """Nearly parallel rows: their matrix has norm sqrt(5), but their differences are short."""
    weight = noise(5, 6)
    weight[:, 0] += 10
    model, x, labels = nn.Sequential(nn.Flatten(), head(weight)).eval(), images(20), torch.zeros(20, dtype=torch.int64)
    own = certify(model, x, labels).radius
    shared = certify(model, x, labels, lipschitz=lipschitz_bound(model)).radius
    assert (own > 2 * shared).all()
    assert (shared > 0).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_bounds_of_a_network_are_those_of_its_head_times_what_comes_before(scale: float) -> None:
    model = LipConvNet(4, depth=2, stages=2, initial_channels=4, image_size=8, head=NormalizedLinear, std=1 / scale)
    model = model.double().eval()
    bounds = logit_bounds(model)
    rows = nn.functional.normalize(model.head.weight.detach())
    assert bounds.lipschitz == lipschitz_bound(model) == model.lipschitz_bound()
    assert bounds.pairwise is not None
    expected = scale * torch.cdist(rows, rows)
    assert (bounds.pairwise >= expected * (1 - 1e-15)).all()
    assert bounds.pairwise[0, 1:].tolist() == pytest.approx(expected[0, 1:].tolist(), rel=1e-9)
    nested = logit_bounds(nn.Sequential(nn.Identity(), nn.Sequential(model)).eval()).pairwise
    assert nested is not None
    assert (nested >= bounds.pairwise).all()
    torch.testing.assert_close(nested, bounds.pairwise, rtol=1e-14, atol=0)
    followed = nn.Sequential(model, nn.Identity()).eval()
    assert logit_bounds(followed).pairwise is None, "what follows the head might change the logits"


@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 2), lambda: nn.Sequential(NormalizedLinear(3, 2), nn.ReLU())])
def test_heads_that_declare_nothing_have_one_bound(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    bounds = logit_bounds(model)
    assert bounds.pairwise is None
    assert bounds.lipschitz == lipschitz_bound(model)


def test_a_number_is_one_bound_for_all_logits() -> None:
    model, x, labels = nn.Sequential(nn.Flatten(), head(noise(3, 6))).eval(), images(5), torch.zeros(5).long()
    by_number = certify(model, x, labels, lipschitz=2.0).radius
    assert by_number.equal(certify(model, x, labels, lipschitz=LogitBounds(2.0)).radius)
    own = certify(model, x, labels)
    assert certify(model, x, labels, lipschitz=logit_bounds(model)).radius.equal(own.radius)


@pytest.mark.parametrize("value", [0.0, nan, inf])
def test_a_row_that_cannot_be_normalised_is_never_certified(value: float) -> None:
    weight = noise(3, 6)
    weight[1] = value
    model = nn.Sequential(nn.Flatten(), head(weight)).eval()
    certificates = certify(model, images(20), torch.zeros(20, dtype=torch.int64))
    assert certificates.radius.tolist() == [0.0] * 20


def test_equal_rows_are_only_told_apart_by_their_biases() -> None:
    weight, x = noise(1, 6).expand(2, 6), images(5)
    labels = torch.zeros(5, dtype=torch.int64)
    apart = certify(nn.Sequential(nn.Flatten(), head(weight, torch.tensor([1.0, 0.0]))).eval(), x, labels)
    assert apart.prediction.tolist() == [0] * 5
    assert (apart.radius > 1e100).all(), "no image has the other prediction"
    assert apart.radius.isfinite().all()
    tied = certify(nn.Sequential(nn.Flatten(), head(weight)).eval(), x, labels)
    assert tied.radius.tolist() == [0.0] * 5


def test_features_without_a_bound_certify_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), Scale(inf), head(noise(3, 6))).eval()
    bounds = logit_bounds(model)
    assert bounds.lipschitz == inf
    assert bounds.pairwise is not None
    assert bounds.pairwise.min() == inf


class Declaring(LipschitzModule, nn.Linear):
    """A user's own head."""

    declared: Tensor = torch.zeros(0)

    def lipschitz_bound(self) -> float:
        return 1.0

    def pairwise_lipschitz(self) -> Tensor:
        return self.declared


def test_a_head_of_ones_own_takes_part() -> None:
    model = Declaring(3, 2).eval()
    model.declared = torch.full((2, 2), 0.25, dtype=torch.float64)
    assert logit_bounds(model).pairwise[0, 1] == 0.25
    assert logit_bounds(nn.Sequential(Scale(2.0), model).eval()).pairwise[0, 1].item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("declared", "received"),
    [
        (torch.ones(2, 2), r"torch\.float32 \(2, 2\)"),
        (torch.ones(2, 3, dtype=torch.float64), r"torch\.float64 \(2, 3\)"),
        (torch.ones((), dtype=torch.float64), r"torch\.float64 \(\)"),
        (torch.full((2, 2), nan, dtype=torch.float64), r"torch\.float64 \(2, 2\)"),
        (-torch.ones(2, 2, dtype=torch.float64), r"torch\.float64 \(2, 2\)"),
    ],
)
def test_what_is_no_declaration_is_refused(declared: Tensor, received: str) -> None:
    model = nn.Sequential(nn.Identity(), Declaring(3, 2)).eval()
    model[1].declared = declared
    with pytest.raises(ValueError, match=rf"1 \(Declaring\) must declare pairwise_lipschitz\(\) .* got {received}"):
        logit_bounds(model)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="in training mode"):
        logit_bounds(NormalizedLinear(3, 2))


def test_the_report_has_the_radii_of_the_head(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Flatten(), head(noise(3, 6))).eval(), images(10)
    labels = torch.arange(10) % 3
    certify_dataset(model, [(x[:6], labels[:6]), (x[6:], labels[6:])], torch.arange(10), tmp_path, facts={})
    written = [float(row.radius) for row in read_certificates(tmp_path / "certificates.tsv").rows.values()]
    assert written == pytest.approx(certify(model, x, labels).radius.tolist(), abs=1e-9)


class Unsupported(LipschitzModule):
    """Its bound needs an operation that torch does not have for the dtype."""

    def lipschitz_bound(self) -> float:
        raise NotImplementedError("'svd' not implemented for 'Half'")


def test_a_bound_that_torch_cannot_compute_says_why() -> None:
    with pytest.raises(
        TypeError, match=r"0 \(Unsupported\) has no Lipschitz bound: .*'svd' not implemented for 'Half'"
    ):
        lipschitz_bound(nn.Sequential(Unsupported()).eval())
