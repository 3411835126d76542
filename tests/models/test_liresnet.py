"""LiResNet: the published architecture, its parameters, and certificates, export and attack of small ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lipnet.certify import PGD, certify, lipschitz_bound, rounding_bounds
from lipnet.layers import (
    BRO,
    GSSOC,
    SOC,
    BetaAbs,
    Centering,
    LiRes,
    MaxMinPermuted,
    PatchEmbedding,
    ScaledConv2d,
    export,
)
from lipnet.models import LiResNet
from tests.oracles import dense_jacobian, spectral_norm

TINY: dict[str, Any] = {
    "depth": 2,
    "channels": 4,
    "dense_features": 8,
    "dense_depth": 1,
    "mean": (0.5, 0.4, 0.3),
    "std": 0.25,
}


def tiny_network(**settings: Any) -> LiResNet:
    return LiResNet(3, **{**TINY, **settings})


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_the_published_network() -> None:
    with torch.device("meta"):
        model = LiResNet(100)
    # 83 M in the paper.
    assert round(count(model) / 1e6) == 83
    parts = {name: count(child) for name, child in model.named_children()}
    assert parts["block1"] == 512 * 512 * 9 + 2 * 512
    assert parts["neck"] == (512 * 512 * 16 + 512) + (512 * 16 * 2048 + 2048)
    assert parts["dense8"] == 2048 * 2048 + 2 * 2048
    assert parts["head"] == 2048 * 100 + 100


def test_parameters_of_the_published_network_with_block_reflectors() -> None:
    with torch.device("meta"):
        model = LiResNet(100, block=BRO, dense=LiRes)
    # BRONet-L: 68 M in the paper, with reflectors of rank c / 2, and dense layers.
    assert int(count(model) / 1e6) == 68


@pytest.mark.parametrize("block", [LiRes, SOC, partial(GSSOC, groups=(2, 1))])
@pytest.mark.parametrize(("image_size", "stem_stride"), [(32, 2), (64, 4)])
def test_images_of_both_sizes_are_certified(block: Any, image_size: int, stem_stride: int) -> None:
    model = tiny_network(block=block, image_size=image_size, stem_stride=stem_stride)
    images = torch.rand(4, 3, image_size, image_size)
    model(images).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.double().eval()
    certificates = certify(model, images, [0, 1, 2, 0])
    assert bool((certificates.radius > 0).all())
    assert rounding_bounds(model, (3, image_size, image_size)).logits < 1e-7
    assert model.lipschitz_bound() == lipschitz_bound(model)


def test_the_bound_holds_after_training() -> None:
    model = tiny_network(image_size=16, depth=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(20 * model(torch.rand(6, 3, 16, 16)), torch.arange(6) % 3).backward()
        optimizer.step()
    model.double().eval()
    jacobian = dense_jacobian(model, torch.rand(1, 3, 16, 16, dtype=torch.float64))
    assert spectral_norm(jacobian) <= lipschitz_bound(model)


def test_no_attack_within_the_radius_changes_a_prediction() -> None:
    model = tiny_network(image_size=16).eval()
    images = torch.rand(4, 3, 16, 16)
    model.double().requires_grad_(False)
    certificates = certify(model, images, [0, 1, 2, 0])
    attacked = PGD(steps=3).perturb(model, images.double(), certificates.prediction, certificates.radius * 0.999)
    assert torch.equal(model(attacked).argmax(1), certificates.prediction)


@pytest.mark.slow
def test_it_is_exported() -> None:
    model, images = tiny_network(image_size=16).eval(), torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(export(model)(images), model(images), rtol=0, atol=1e-5)


def test_its_options() -> None:
    model = tiny_network(
        patch_rotation=True, centering=False, activation=BetaAbs, dense=SOC, dense_depth=0, neck_patch_size=2
    )
    assert [type(module) for module in model.stem] == [PatchEmbedding, ScaledConv2d, BetaAbs]
    assert model.stem[1].weight.shape == (4, 12, 3, 3)
    assert not any(isinstance(module, Centering) for module in model.modules())
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    model = tiny_network(dense=SOC, dense_depth=2, activation=MaxMinPermuted)
    assert [type(module) for module in model.dense2] == [SOC, MaxMinPermuted]


def test_layers_know_their_number_and_their_maps() -> None:
    model = tiny_network(image_size=64, stem_stride=4, depth=3, dense_depth=2)
    assert (model.block2[0].depth, model.block2[0].size) == (3, (16, 16))
    assert (model.dense1[0].depth, model.dense1[0].size) == (2, (1, 1))
    assert tiny_network(block=partial(LiRes, depth=7)).block1[0].depth == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 20}, r"image_size must be divisible by stem_stride \* neck_patch_size = 2 \* 4, got 20"),
        ({"depth": 0}, "depth must be at least 1 and dense_depth at least 0, got 0 and 1"),
        ({"mean": (0.5,)}, "mean must have one number for each of 3 channels"),
        ({"block": partial(LiRes, padding=0)}, "LiRes adds its input"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_network(**settings)


@pytest.mark.parametrize(
    "setting", ["depth", "channels", "image_size", "stem_kernel_size", "stem_stride", "neck_patch_size", "dense_depth"]
)
def test_a_setting_that_is_no_integer_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must be an integer, got 'abc'$"):
        LiResNet(10, **{setting: "abc"})  # type: ignore[arg-type]
