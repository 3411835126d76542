"""LipNeXt: the block against its formula, published sizes, and certificates, export and attack of small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.certify import PGD, certify, lipschitz_bound, rounding_bounds
from lipnet.layers import NormPool2d, SOCLinear, export
from lipnet.models import LipNeXt
from lipnet.models.lipnext import LipNeXtBlock
from tests.oracles import dense_jacobian, spectral_norm

TINY: dict[str, Any] = {"depth": 2, "channels": 16, "mean": (0.5, 0.4, 0.3), "std": 0.25}


def tiny_network(**settings: Any) -> LipNeXt:
    model = LipNeXt(3, **{**TINY, **settings})
    for name, parameter in model.named_parameters():
        if name.endswith(("rows", "columns", "bias")):
            nn.init.normal_(parameter, std=0.1)
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("depth", "channels"), [(32, 1024), (32, 2048)])
def test_parameters_of_the_published_networks(depth: int, channels: int) -> None:
    with torch.device("meta"):
        model = LipNeXt(100, depth=depth, channels=channels)
    matrices = 2 * depth * channels**2
    # 64 and 256 times 2^20 in the matrices, as printed; position codes, biases and head add 2 %.
    assert matrices in (64 * 2**20, 256 * 2**20)
    assert matrices < count(model) < 1.02 * matrices


def test_parameters_with_group_and_shuffle_matrices() -> None:
    with torch.device("meta"):
        dense, structured = (LipNeXt(100, depth=32, channels=2048, groups=groups) for groups in (1, 32))
    removed = 32 * (2 * 2048**2 - 4 * 2048**2 // 32)
    assert count(dense) - count(structured) == removed


@pytest.mark.parametrize("groups", [1, 4])
def test_a_block_is_its_formula(groups: int) -> None:
    block = LipNeXtBlock(16, 3, groups=groups, share=1 / 8, beta=0.5).double().eval()
    for parameter in (block.position.rows, block.position.columns, block.mixing.bias):
        nn.init.normal_(parameter)
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)
    rotation, mixing = (
        dense_jacobian(lambda x, layer=layer: layer.rotate(x, layer.matrices()), torch.zeros(1, 16).double())
        for layer in (block.spatial.rotation, block.mixing)
    )
    values = (x + block.position.rows + block.position.columns).detach().numpy()
    values = np.einsum("oi,bihw->bohw", rotation, values)
    for channel, (axis, step) in enumerate([(1, -1)] * 2 + [(1, 1)] * 2 + [(2, -1)] * 2 + [(2, 1)] * 2):
        values[:, channel] = np.roll(values[:, channel], step, axis)
    values = np.einsum("oi,bihw->bohw", mixing @ rotation.T, values) + block.mixing.bias.detach().numpy()[:, None, None]
    values[:, :8] = np.abs(values[:, :8])
    np.testing.assert_allclose(block(x).detach(), values, atol=1e-12)
    jacobian = dense_jacobian(block, x[:1])
    np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(144), atol=1e-12)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("parametrization", ["cayley", "manifold"])
@pytest.mark.parametrize(("image_size", "patch_size"), [(32, 2), (64, 2), (64, 4)])
def test_images_of_both_sizes_are_certified(
    groups: int, parametrization: str, image_size: int, patch_size: int
) -> None:
    channels = 16 if patch_size == 2 else 48
    model = tiny_network(
        image_size=image_size,
        patch_size=patch_size,
        groups=groups,
        channels=channels,
        parametrization=parametrization,
        patch_rotation=True,
    )
    images = torch.rand(4, 3, image_size, image_size)
    model.stem.fit(images)
    model(images).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.double().eval()
    assert bool((certify(model, images, [0, 1, 2, 0]).radius > 0).all())
    assert rounding_bounds(model, (3, image_size, image_size)).logits < 1e-8
    assert lipschitz_bound(nn.Sequential(*list(model)[:-2]).eval()) < 4 * (1 + 1e-5)


@pytest.mark.parametrize("parametrization", ["cayley", "manifold"])
def test_the_bound_holds_after_steps_of_plain_sgd(parametrization: str) -> None:
    model = tiny_network(image_size=8, depth=1, parametrization=parametrization)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(20 * model(torch.rand(6, 3, 8, 8)), torch.arange(6) % 3).backward()
        optimizer.step()
    model.double().eval()
    jacobian = dense_jacobian(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert spectral_norm(jacobian) <= lipschitz_bound(model)


def test_no_attack_within_the_radius_changes_a_prediction() -> None:
    model = tiny_network(image_size=8, groups=4).eval()
    images = torch.rand(4, 3, 8, 8)
    model.double().requires_grad_(False)
    certificates = certify(model, images, [0, 1, 2, 0])
    attacked = PGD(steps=3).perturb(model, images.double(), certificates.prediction, certificates.radius * 0.999)
    assert torch.equal(model(attacked).argmax(1), certificates.prediction)


@pytest.mark.slow
def test_it_is_exported() -> None:
    model, images = tiny_network(image_size=8, groups=4).eval(), torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(export(model)(images), model(images), rtol=0, atol=1e-5)


def test_its_parts() -> None:
    model = LipNeXt(3, depth=3, channels=16, head=SOCLinear)
    names = ["normalize", "stem", "block1", "block2", "block3", "pooling", "flatten", "head"]
    assert [name for name, _ in model.named_children()] == names
    assert isinstance(model.pooling, NormPool2d)
    assert model.eval().lipschitz_bound() < 1 + 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 9}, "image_size must be divisible by patch_size, got 9 and 2"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"channels": 8}, r"out_channels must be at least in_channels \* patch_size\^2 = 12"),
        ({"groups": 3}, "groups must divide channels = 16, got 3"),
        ({"mean": (0.5,)}, "mean must have one number for each of 3 channels"),
        ({"beta": 2.0}, r"beta must be in \[0, 1\], got 2.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_network(**settings)


@pytest.mark.parametrize("setting", ["depth", "channels", "image_size", "patch_size", "groups"])
def test_a_setting_that_is_no_integer_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must be an integer, got 'abc'$"):
        LipNeXt(10, **{setting: "abc"})  # type: ignore[arg-type]
