"""Projected gradient descent where the nearest other prediction is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import PGD
from lipnet.certify.attacks.pgd import cross_entropy_loss, margin_loss, ranked_classes, targeted_loss


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(weight: Tensor) -> nn.Module:
    """Linear in the pixels' differences from one half."""
    layer = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-0.5 * weight.sum(dim=1))
    return nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)


# Keep away from the faces of the box, so that they do not limit the attack.
IMAGES = 0.5 + 0.02 * noise(30, 1, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_finds_the_nearest_boundary_of_a_linear_classifier(classes: int, dtype: torch.dtype) -> None:
    weight, images = noise(classes, 6, seed=1), IMAGES
    logits = (images.flatten(1) - 0.5) @ weight.T
    prediction = logits.argmax(dim=1)
    top = logits.gather(1, prediction.unsqueeze(1))
    away = (weight[prediction].unsqueeze(1) - weight).norm(dim=2)
    exact = torch.where(away > 0, (top - logits) / away, torch.inf).amin(dim=1)
    model, start = classifier(weight.to(dtype)), images.to(dtype)
    found = PGD(restarts=1 + classes).perturb(model, start, prediction, (1.01 * exact).to(dtype))
    assert (model(found).argmax(dim=1) != prediction).all(), "each class is a target of one restart"
    # Six pixels, each rounded to the dtype.
    rounding = 6 * torch.finfo(dtype).eps
    assert ((found - start).flatten(1).norm(dim=1) <= 1.01 * exact + rounding).all()
    assert PGD().perturb(model, start, prediction, (0.99 * exact).to(dtype)).equal(start), "nothing is to be found"


def test_it_stays_within_the_box() -> None:
    """Steps out of the box would flip all images; within the box, only some can flip."""
    images = torch.cat([torch.full((1, 1, 1, 2), 0.5), torch.full((1, 1, 1, 2), 0.1)]).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double().eval().requires_grad_(False)
    model[1].weight.data.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    model[1].bias.data.copy_(torch.tensor([0.0, 0.05]))
    prediction = torch.tensor([1, 1])
    found = PGD().perturb(model, images, prediction, torch.full((2,), 10.0).double())
    assert found.equal(images), "no pixels in the box have a sum below -0.05"
    model[1].bias.data[1] = -0.05
    found = PGD().perturb(model, images, prediction, torch.full((2,), 10.0).double())
    assert (model(found).argmax(dim=1) == 0).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_the_same_seed_finds_the_same_images() -> None:
    model = classifier(noise(3, 6, seed=1))
    prediction = model(IMAGES).argmax(dim=1)
    first, again, other = (
        PGD(seed=seed).perturb(model, IMAGES, prediction, torch.full((30,), 0.3).double()) for seed in (0, 0, 1)
    )
    assert first.equal(again)
    assert not first.equal(IMAGES)
    assert other.shape == first.shape


def test_losses_by_hand() -> None:
    logits, prediction = torch.tensor([[1.0, 4.0, 3.0, 0.0]]), torch.tensor([1])
    assert margin_loss(logits, prediction).tolist() == [-1.0]
    assert [ranked_classes(logits, prediction, rank).item() for rank in (1, 2, 3, 9)] == [2, 0, 3, 3]
    assert targeted_loss(logits, prediction, torch.tensor([3])).tolist() == [-4.0]
    expected = -logits.softmax(dim=1)[0, 1].log()
    torch.testing.assert_close(cross_entropy_loss(logits, prediction), expected.unsqueeze(0))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}, {"steps": -3}])
def test_fewer_than_one_step_or_restart_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"steps and restarts must be at least 1, got"):
        PGD(**settings)
