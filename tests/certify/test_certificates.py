"""Certificates against classifiers whose exact radii are known, and against an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lipnet.certify import certify, lipschitz_bound, logit_bounds, rounding_bounds
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers import LipschitzModule


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, *(shape or (1, 2, 3))), generator=generator, dtype=torch.float64)


def linear_classifier(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The classifier of flattened images with these rows, float64, in evaluation mode."""
    layer = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def exact_radius(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """min over j of (f_y - f_j) / ||w_y - w_j||: the distance of each image to the nearest decision boundary."""
    logits = x.flatten(1) @ weight.T + bias
    radii = []
    for scores in logits:
        y = int(scores.argmax())
        others = [j for j in range(len(scores)) if j != y]
        radii.append(min((scores[y] - scores[j]).item() / (weight[y] - weight[j]).norm().item() for j in others))
    return torch.tensor(radii, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_radius_never_exceeds_the_exact_one_of_a_linear_classifier(classes: int, scale: float) -> None:
    weight, bias, x = scale * noise(classes, 6), scale * noise(classes, seed=1), images(50)
    certificates = certify(linear_classifier(weight, bias), x, torch.zeros(50, dtype=torch.int64))
    exact = exact_radius(weight, bias, x)
    assert (certificates.radius > 0).all()
    assert (certificates.radius <= exact).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_radius_of_opposite_rows_is_the_exact_one(scale: float) -> None:
    row, offset, x = scale * noise(6), scale * noise(1, seed=1), images(50)
    weight, bias = torch.stack([row, -row]), torch.cat([offset, -offset])
    certificates = certify(linear_classifier(weight, bias), x, torch.zeros(50, dtype=torch.int64))
    exact = exact_radius(weight, bias, x)
    assert (certificates.radius <= exact).all()
    assert certificates.radius.tolist() == pytest.approx(exact.tolist(), rel=1e-9)


def test_results_say_what_they_are() -> None:
    x, labels = images(20), torch.arange(20) % 3
    weight = noise(3, 6)
    certificates = certify(linear_classifier(weight), x, labels)
    prediction = (x.flatten(1) @ weight.T).argmax(dim=1)
    assert certificates.prediction.equal(prediction)
    assert certificates.correct.equal(prediction == labels)
    assert 0 < certificates.correct.sum() < 20
    assert certificates.radius.dtype == torch.float64
    assert certificates.radius.shape == (20,)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_may_be_any_integers(dtype: torch.dtype) -> None:
    certificates = certify(linear_classifier(noise(3, 6)), images(5), torch.ones(5, dtype=dtype))
    assert certificates.correct.equal(certificates.prediction == 1)


def test_ties_have_radius_zero() -> None:
    row = noise(6)
    certificates = certify(linear_classifier(torch.stack([row, row])), images(5), torch.zeros(5, dtype=torch.int64))
    assert certificates.radius.tolist() == [0.0] * 5


@pytest.mark.parametrize("value", [nan, inf])
def test_weights_that_are_not_finite_certify_nothing(value: float) -> None:
    weight = noise(3, 6)
    weight[1, 2] = value
    certificates = certify(linear_classifier(weight), images(5), torch.zeros(5, dtype=torch.int64))
    assert certificates.radius.tolist() == [0.0] * 5


def test_a_known_constant_is_taken() -> None:
    model, x, labels = linear_classifier(noise(3, 6)), images(20), torch.zeros(20, dtype=torch.int64)
    bound = lipschitz_bound(model)
    own, doubled = certify(model, x, labels), certify(model, x, labels, lipschitz=2 * bound)
    assert certify(model, x, labels, lipschitz=bound).radius.equal(own.radius)
    assert doubled.radius.tolist() == pytest.approx((own.radius / 2).tolist(), rel=1e-14)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_the_size_of_batches_changes_nothing(
    batch_size: int, trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    x, labels = digits[0][:20], digits[1][:20]
    together = certify(trained_model, x, labels)
    split = certify(trained_model, x, labels, batch_size=batch_size)
    assert split.prediction.equal(together.prediction)
    assert split.correct.equal(together.correct)
    assert split.radius.tolist() == pytest.approx(together.radius.tolist(), rel=1e-12)


def test_images_take_the_dtype_of_the_model() -> None:
    weight, x, labels = noise(3, 6).float(), images(20), torch.zeros(20, dtype=torch.int64)
    single, double = linear_classifier(weight), linear_classifier(weight.double())
    assert certify(single, x, labels, ignore_rounding=True).radius.tolist() == pytest.approx(
        certify(double, x, labels).radius.tolist(), abs=1e-6
    )
    assert certify(double, x.float(), labels).radius.equal(certify(double, x.float().double(), labels).radius)


def test_the_model_stays_as_it_was(trained_model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    before = {name: value.clone() for name, value in trained_model.state_dict().items()}
    result = certify(trained_model, digits[0][:5], digits[1][:5])
    after = trained_model.state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
    assert not any(module.training for module in trained_model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trained_model.parameters())
    assert torch.is_grad_enabled()
    assert not result.radius.requires_grad


class GradWitness(LipschitzModule, nn.Flatten):
    """Remembers whether gradients were recorded when it ran."""

    seen: bool | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.is_grad_enabled()
        return super().forward(x)

    def lipschitz_bound(self) -> float:
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)


def test_no_gradients_are_recorded() -> None:
    witness = GradWitness().eval()
    certify(witness, images(2), torch.zeros(2, dtype=torch.int64))
    assert witness.seen is False


def unit(directions: Tensor) -> Tensor:
    return directions / directions.flatten(1).norm(dim=1).clamp_min(1e-300).view(-1, 1, 1, 1)


def attack(model: nn.Module, x: Tensor, prediction: Tensor, radius: Tensor, *, steps: int = 8) -> Tensor:
    """Return the predictions (B,) after projected gradient descent on the margin, on spheres of these radii."""
    model.requires_grad_(False)
    place, size = prediction.unsqueeze(1), radius.view(-1, 1, 1, 1)
    offset = size * unit(noise(*x.shape))
    for _ in range(steps):
        offset.requires_grad_()
        logits = model(x + offset)
        margin = logits.gather(1, place).squeeze(1) - logits.scatter(1, place, -inf).amax(dim=1)
        (slope,) = torch.autograd.grad(margin.sum(), offset)
        offset = size * unit(offset.detach() - size * unit(slope))
    flipped: Tensor = model(x + offset).argmax(dim=1)
    return flipped


def test_no_attack_within_the_radius_changes_a_prediction(
    trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    x, labels = digits[0][:64], digits[1][:64]
    certificates = certify(trained_model, x, labels)
    assert certificates.correct.double().mean() > 0.7, "a network that has learned nothing would show nothing"
    prediction, radius = certificates.prediction, certificates.radius
    assert attack(trained_model, x, prediction, radius * (1 - 1e-9)).equal(prediction)
    beyond = attack(trained_model, x, prediction, 1.5 * radius)
    assert (beyond != prediction).double().mean() > 0.8, "an attack that never succeeds would show nothing"


def test_a_linear_classifier_flips_just_beyond_its_radius() -> None:
    row, x = noise(6), images(50)
    model = linear_classifier(torch.stack([row, -row]))
    certificates = certify(model, x, torch.zeros(50, dtype=torch.int64))
    towards = torch.where(certificates.prediction == 0, -1.0, 1.0).double().unsqueeze(1) * row / row.norm()
    reach = certificates.radius.unsqueeze(1) * towards
    for factor, flips in ((1 - 1e-9, False), (1 + 1e-9, True)):
        prediction = model(x.flatten(1) + factor * reach).argmax(dim=1)
        assert ((prediction != certificates.prediction) == flips).all()


def test_sqrt_two_is_reached_by_the_identity() -> None:
    """The logits are the two pixels, so the boundary is at distance |x_0 - x_1| / sqrt(2)."""
    x = torch.tensor([0.875, 0.125], dtype=torch.float64).view(1, 1, 1, 2)
    certificates = certify(linear_classifier(torch.eye(2, dtype=torch.float64)), x, torch.tensor([0]))
    assert certificates.radius.item() == pytest.approx(0.75 / sqrt(2), rel=1e-9)


def with_pixel(value: float) -> Tensor:
    x = images(3)
    x[1, 0, 1, 2] = value
    return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_pixel(nan), r"numbers in \[0, 1\], got NaN or infinity in 1 of 3 images"),
        (lambda: with_pixel(-inf), r"numbers in \[0, 1\], got NaN or infinity in 1 of 3 images"),
        (lambda: with_pixel(1.25), r"must lie in \[0, 1\], got \[.*, 1\.25\]"),
        (lambda: with_pixel(-0.5), r"must lie in \[0, 1\], got \[-0\.5, "),
        (lambda: images(3)[0], r"shape \(B, C, H, W\).*got torch\.float64 \(1, 2, 3\)"),
        (lambda: images(3)[:0], r"each at least 1, got torch\.float64 \(0, 1, 2, 3\)"),
        (lambda: images(3)[..., :0], r"each at least 1, got torch\.float64 \(3, 1, 2, 0\)"),
        (lambda: torch.ones(3, 1, 2, 3, dtype=torch.uint8), r"must be in float16.*got torch\.uint8"),
        (lambda: torch.ones(3, 1, 2, 3).to(torch.float8_e4m3fn), r"must be in float16.*got torch\.float8_e4m3fn"),
        (lambda: images(3).to_sparse(), r"must be dense tensors with values, got a sparse tensor"),
        (lambda: images(3).to("meta"), r"must be dense tensors with values, got a meta tensor"),
        (
            lambda: torch.nested.nested_tensor(list(images(3))),
            r"must be dense tensors with values, got a nested tensor",
        ),
        (lambda: [images(1)[0], images(1)[0, :, :1]], r"must be arrays of numbers: .*equal size"),
    ],
)
def test_images_that_are_no_pixels_are_refused(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(linear_classifier(noise(3, 6)), make(), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_the_ends_of_the_range_are_pixels(edge: float) -> None:
    x = torch.full((2, 1, 2, 3), edge, dtype=torch.float64)
    assert len(certify(linear_classifier(noise(3, 6)), x, torch.zeros(2, dtype=torch.int64)).radius) == 2


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (torch.zeros(4, dtype=torch.int64), r"torch\.int64 \(4,\)"),
        (torch.zeros(3, 1, dtype=torch.int64), r"torch\.int64 \(3, 1\)"),
        (torch.tensor(0), r"torch\.int64 \(\)"),
        (torch.zeros(3), r"torch\.float32 \(3,\)"),
        (torch.zeros(3, dtype=torch.complex64), r"torch\.complex64 \(3,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, received: str) -> None:
    with pytest.raises(ValueError, match=rf"labels must be 3 integers, .*got {received}"):
        certify(linear_classifier(noise(3, 6)), images(3), labels)


@pytest.mark.parametrize("lipschitz", [None, 3.0], ids=["own constant", "given constant"])
def test_a_model_in_training_mode_is_refused(tiny_model: nn.Module, lipschitz: float | None) -> None:
    x, labels = images(2, 1, 8, 8).float(), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"in training mode.*model\.eval\(\)"):
        certify(tiny_model.train(), x, labels, lipschitz=lipschitz)


def test_a_module_without_a_rule_is_refused() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 1), nn.Flatten()).double().eval()
    with pytest.raises(TypeError, match=r"0 \(GroupNorm\) has no rule for its Lipschitz bound"):
        certify(model, images(2), torch.zeros(2, dtype=torch.int64))


def test_the_radius_is_never_more_than_without_rounding(
    trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    x, labels = digits[0][:40], digits[1][:40]
    radius = certify(trained_model, x, labels).radius
    with torch.no_grad():
        naive = logit_bounds(trained_model).certified_radius(trained_model(x))[1]
    assert ((naive - 1e-9 < radius) & (radius < naive)).all()


@pytest.mark.parametrize(("share", "certified"), [(0.999, False), (1.001, True)])
def test_a_margin_within_the_rounding_certifies_nothing(share: float, certified: bool) -> None:
    """Only margins above 2 sqrt(2) E certify."""
    weight = 1e6 * noise(1, 6).expand(2, 6)
    model = linear_classifier(weight, torch.zeros(2, dtype=torch.float64))
    needed = 2 * sqrt(2) * rounding_bounds(model, (1, 2, 3)).logits
    with torch.no_grad():
        model[1].bias[0] = share * needed
    certificates = certify(model, torch.zeros(3, 1, 2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))
    assert (certificates.radius > 0).tolist() == [certified] * 3


def test_logits_that_are_not_numbers_certify_nothing() -> None:
    """The forward pass overflows: the weights are finite, the logits are not."""
    weight = torch.full((2, 6), 1e308, dtype=torch.float64)
    weight[1] = -1e308
    x = torch.ones(2, 1, 2, 3, dtype=torch.float64)
    assert not linear_classifier(weight)(x).isfinite().any()
    assert certify(linear_classifier(weight), x, torch.zeros(2, dtype=torch.int64)).radius.tolist() == [0.0, 0.0]


def test_in_float32_it_must_be_said_that_rounding_is_ignored() -> None:
    weight, x, labels = noise(3, 6), images(5), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"in float32.*certify model\.double\(\), or pass ignore_rounding=True"):
        certify(linear_classifier(weight.float()), x, labels)
    with pytest.raises(ValueError, match=r"in float64.*ignore_rounding must be False"):
        certify(linear_classifier(weight), x, labels, ignore_rounding=True)
    rounding = rounding_bounds(linear_classifier(weight), (1, 2, 3))
    with pytest.raises(ValueError, match="rounding must be None with ignore_rounding=True, got bounds"):
        certify(linear_classifier(weight.float()), x, labels, rounding=rounding, ignore_rounding=True)
    assert (certify(linear_classifier(weight.float()), x, labels, ignore_rounding=True).radius > 0).any()


def test_bounds_of_the_rounding_can_be_given() -> None:
    model, x, labels = linear_classifier(noise(3, 6)), images(5), torch.zeros(5, dtype=torch.int64)
    rounding = rounding_bounds(model, (1, 2, 3))
    assert certify(model, x, labels, rounding=rounding).radius.equal(certify(model, x, labels).radius)
    vacuous = replace(rounding, logits=inf)
    assert certify(model, x, labels, rounding=vacuous).radius.tolist() == [0.0] * 5


def test_bounds_of_the_rounding_of_other_images_are_refused() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3)).double().eval()
    rounding = rounding_bounds(model, (1, 2, 2))
    images, labels = torch.rand(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"have shape \(1, 16, 16\), and the rounding is that .* \(1, 2, 2\)"):
        certify(model, images, labels, rounding=rounding)


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_batch_sizes_that_are_none_are_refused(size: Any) -> None:
    model, x, labels = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval(), torch.rand(2, 1, 2, 2), [0, 1]
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got"):
        certify(model, x, labels, batch_size=size)


def test_rounding_within_the_naive_radius_turns_predictions_but_none_that_is_certified() -> None:
    """Two large logits differ by little, so images lie on the boundary up to rounding."""
    row = 1e8 * noise(6)
    weight = torch.stack([row, row + 1e-7 * noise(6, seed=1)])
    model, x = linear_classifier(weight), images(2000)
    labels = torch.zeros(2000, dtype=torch.int64)
    with torch.no_grad():
        prediction, naive = logit_bounds(model).certified_radius(model(x))
        tree = sum((x.flatten(1)[:, i, None] * weight[:, i] for i in reversed(range(6))), torch.zeros(1).double())
    assert ((naive > 0) & (tree.argmax(dim=1) != prediction)).any(), "sums in another order must show the rounding"
    certified = certify(model, x, labels).radius > 0
    assert not (certified & (tree.argmax(dim=1) != prediction)).any()


def test_masked_arrays_are_refused() -> None:
    """torch drops the mask, and would certify the values that it hides."""
    images = np.full((2, 1, 1, 2), 0.5)
    model = nn.Flatten().double().eval()
    for given in ((np.ma.masked_equal(images, 0.5), [0, 0]), (images, np.ma.masked_equal([0, 1], 1))):
        with pytest.raises(ValueError, match="images and labels must be complete, got a masked array"):
            certify(model, *given)


def test_arrays_and_lists_are_certified_as_tensors_are() -> None:
    model, x, labels = linear_classifier(noise(3, 6)), images(4), torch.tensor([0, 1, 2, 0])
    expected = certify(model, x, labels)
    for given in (
        (x.numpy(), labels.numpy()),
        (x.tolist(), labels.tolist()),
        (list(x), list(labels)),
        ([x[0].numpy(), *x[1:]], labels),
    ):
        received = certify(model, *given)
        assert received.radius.equal(expected.radius)
        assert received.correct.equal(expected.correct)


@pytest.mark.parametrize(
    ("given", "message"), [("four", "arrays of numbers|must be in float16"), ([[1.0], [1.0, 2.0]], "arrays of")]
)
def test_what_is_no_array_is_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(linear_classifier(noise(3, 6)), given, [0])


@pytest.mark.parametrize("labels", [[0, 3, 0], [-1, 0, 0]])
def test_labels_that_are_no_classes_of_the_model_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"classes 0 to 2 of the model, got {min(labels)} to {max(labels)}"):
        certify(linear_classifier(noise(3, 6)), images(3), labels)


def loader_of(*parts: Tensor, batch_size: int = 3) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*parts), batch_size=batch_size)


def test_a_loader_gives_the_certificates_of_its_images(trained_model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:8], digits[1][:8]
    expected = certify(trained_model, images, labels, batch_size=3)
    found = certify(trained_model, loader_of(images, labels))
    for name in ("prediction", "radius", "correct"):
        assert getattr(found, name).equal(getattr(expected, name))


def test_a_loader_without_what_certificates_need_is_refused(trained_model: nn.Module) -> None:
    images, labels = torch.rand(4, 1, 8, 8).double(), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels must be None for a DataLoader"):
        certify(trained_model, loader_of(images, labels), labels)
    with pytest.raises(ValueError, match="labels are missing"):
        certify(trained_model, images)
    with pytest.raises(ValueError, match="must yield images and labels, got list"):
        certify(trained_model, loader_of(images))
    with pytest.raises(ValueError, match="has no batches"):
        certify(trained_model, DataLoader([], batch_size=2))
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        certify(trained_model, loader_of(2 + images, labels))


def test_the_images_of_a_loader_must_have_one_shape(trained_model: nn.Module) -> None:
    batches = [(torch.rand(size, size)[None], 0) for size in (8, 8, 9)]
    with pytest.raises(ValueError, match=r"one shape, got \(1, 8, 8\) and \(1, 9, 9\)"):
        certify(trained_model, DataLoader(batches, batch_size=1))
