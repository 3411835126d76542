"""The average with the mirror image: its function, its errors, and networks that use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import PGD, certify, lipschitz_bound
from lipnet.layers import SOC, MirrorAverage, SOCLinear, export
from lipnet.models import LipConvNet, LipNeXt, LiResNet, load_checkpoint, save_checkpoint
from tests.oracles import dense_jacobian, spectral_norm

SETTINGS: dict[str, Any] = {"image_size": 8, "mean": (0.5, 0.4, 0.3), "std": 0.25}
SMALL = {"depth": 1, "channels": 8, "dense_features": 8, "dense_depth": 1, "neck_patch_size": 2}
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "LipConvNet": lambda **more: LipConvNet(
        3, depth=2, stages=2, initial_channels=8, patch_rotation=2, head=SOCLinear, **SETTINGS, **more
    ),
    "LiResNet": lambda **more: LiResNet(3, **SMALL, **SETTINGS, **more),
    "LipNeXt": lambda **more: LipNeXt(3, depth=1, channels=16, padding_mode="zeros", **SETTINGS, **more),
}


def network(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](**settings).double().eval()


def images(count: int = 4, *, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)).double()


def test_it_averages_the_results_for_both_images() -> None:
    body = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).double()
    x = images()
    torch.testing.assert_close(MirrorAverage(body).eval()(x), (body(x) + body(x.flip(3))) / 2)


def test_training_runs_the_body_alone() -> None:
    body = nn.Conv2d(3, 2, 3).double()
    assert torch.equal(MirrorAverage(body)(images()), body(images()))


def test_a_body_that_works_in_place_leaves_the_input() -> None:
    x = images() - 0.5
    kept = x.clone()
    result = MirrorAverage(nn.ReLU(inplace=True)).eval()(x)
    assert torch.equal(x, kept)
    assert torch.equal(result, (kept.relu() + kept.flip(3).relu()) / 2)


def test_other_shapes_are_refused() -> None:
    block = MirrorAverage(nn.Identity())
    for x in (torch.zeros(3, 8, 8), torch.zeros(2, 3)):
        for training in (True, False):
            with pytest.raises(ValueError, match=r"maps of shape \(B, C, H, W\), got "):
                block.train(training)(x)
    with pytest.raises(ValueError, match="keeps the number of images, got 12 for 4"):
        MirrorAverage(nn.Flatten(0, 1)).eval()(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_average_the_logits_of_both_images(name: str) -> None:
    plain, averaged = network(name), network(name, mirror=True)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in averaged.parameters())
    x = images()
    torch.testing.assert_close(averaged(x), (plain(x) + plain(x.flip(3))) / 2)
    torch.testing.assert_close(averaged.train()(x), plain.train()(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_their_bounds_hold(name: str) -> None:
    plain, averaged = network(name), network(name, mirror=True)
    assert lipschitz_bound(averaged) == lipschitz_bound(plain)
    assert spectral_norm(dense_jacobian(averaged, images(1))) <= lipschitz_bound(averaged)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_attack_within_the_radius_changes_a_prediction(name: str) -> None:
    model = network(name, mirror=True)
    x = images(8)
    labels = model(x).argmax(dim=1)
    certificates = certify(model, x, labels)
    assert bool((certificates.radius > 0).all())
    attacked = PGD(steps=5).perturb(model, x, certificates.prediction, certificates.radius * 0.999)
    assert torch.equal(model(attacked).argmax(dim=1), labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_saved_and_exported(name: str, tmp_path: Any) -> None:
    model = network(name, mirror=True)
    torch.testing.assert_close(export(model, (3, 8, 8))(images(5)), model(images(5)))
    if name == "LipConvNet":
        config = {"_target_": "lipnet.models.LipConvNet", "num_classes": 3, "depth": 2, "stages": 2, "mirror": True}
        config |= {"initial_channels": 8, "patch_rotation": 2, **SETTINGS}
        save_checkpoint(tmp_path / "model.ckpt", model, config, {"name": "cifar10"})
        assert torch.equal(load_checkpoint(tmp_path / "model.ckpt").model(images()), model(images()))


def test_the_guarantee_holds_after_training() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(SOC(3, 8, stride=2), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(MirrorAverage(body), SOCLinear(8 * 16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    x, labels = images(16).float(), torch.arange(16) % 3
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(10 * model(x), labels).backward()
        optimizer.step()
    model.double().eval()
    assert spectral_norm(dense_jacobian(model, images(1))) <= lipschitz_bound(model) <= 1 + 1e-9
