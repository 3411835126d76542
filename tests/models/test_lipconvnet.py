"""LipConvNet: the published architecture, its bound, and the errors of shapes that do not fit."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from lipnet.layers import (
    GSSOC,
    SOC,
    Householder,
    HouseholderOrder2,
    MaxMin,
    MaxMinPermuted,
    Normalize,
    NormalizedLinear,
    NormPool2d,
    SOCLinear,
)
from lipnet.models import LipConvNet
from tests.oracles import dense_jacobian, spectral_norm
from tests.settings import PUBLISHED

TINY: dict[str, Any] = {"depth": 4, "stages": 2, "initial_channels": 4, "image_size": 8}


def tiny_network(num_classes: int = 3, **settings: Any) -> LipConvNet:
    return LipConvNet(num_classes, **{**TINY, **settings})


def convolutions(model: nn.Module) -> list[tuple[int, int, tuple[int, int], int]]:
    """(channels in, channels out, kernel size, stride) of each convolution, without the head."""
    assert all(layer.stride[0] == layer.stride[1] for layer in model.modules() if isinstance(layer, SOC))
    return [
        (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride[0])
        for layer in model.modules()
        if isinstance(layer, SOC) and not isinstance(layer, SOCLinear)
    ]


@pytest.mark.parametrize(
    ("conv", "parameters"),
    [
        (SOC, 24_066_020),
        (partial(GSSOC, groups=(4, None)), 6_805_988),
        (partial(GSSOC, groups=(4, 1)), 8_905_060),
        (partial(GSSOC, groups=(4, 2)), 7_857_508),
        (partial(GSSOC, groups=(4, 4)), 7_333_732),
    ],
)
def test_parameters_of_the_published_networks(conv: Any, parameters: int) -> None:
    with torch.device("meta"):
        model = LipConvNet(100, depth=15, initial_channels=32, conv=conv)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_layers_of_the_published_network() -> None:
    with torch.device("meta"):
        model = LipConvNet(100)
    expected = [(3, 32, (3, 3), 1), (32, 32, (3, 3), 1), (32, 64, (3, 3), 2)]
    for width in (64, 128, 256, 512):
        kernel = (1, 1) if width == 512 else (3, 3)
        expected += [(width, width, (3, 3), 1)] * 2 + [(width, 2 * width, kernel, 2)]
    assert convolutions(model) == expected
    assert sum(isinstance(module, MaxMin) for module in model.modules()) == 15
    assert (model.head.in_channels, model.head.out_channels) == (1024, 100)
    names = ["normalize", "stage1", "stage2", "stage3", "stage4", "stage5", "flatten", "head"]
    assert [name for name, _ in model.named_children()] == names


def test_three_stages_fit_images_of_eight_by_eight() -> None:
    model = LipConvNet(10, depth=3, stages=3, initial_channels=4, in_channels=1, image_size=8).eval()
    assert convolutions(model) == [(1, 8, (3, 3), 2), (8, 16, (3, 3), 2), (16, 32, (1, 1), 2)]
    assert model(torch.rand(5, 1, 8, 8)).shape == (5, 10)
    assert model.lipschitz_bound() == 1.0


def test_features_that_are_left_over_are_flattened() -> None:
    model = tiny_network(stages=2, image_size=16)
    assert model.head.in_channels == 16 * 4 * 4
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_factories_make_the_layers() -> None:
    conv = partial(GSSOC, groups=(2, 1), eval_terms=8)
    model = tiny_network(7, conv=conv, activation=MaxMinPermuted, head=partial(SOCLinear, bias=False))
    layers = [layer for stage in (model.stage1, model.stage2) for layer in stage]
    assert [type(layer) for layer in layers] == [GSSOC, MaxMinPermuted] * 4
    assert all(layer.spatial.eval_terms == 8 for layer in layers[::2])
    assert model.head.bias is None
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 7)
    assert isinstance(tiny_network(head=nn.Linear).head, nn.Linear)


@pytest.mark.parametrize("activation", [Householder, partial(HouseholderOrder2, neighbours=True)])
def test_activations_with_parameters_are_made_for_their_channels(activation: Any) -> None:
    model = tiny_network(activation=activation).double().eval()
    layers = [layer for stage in (model.stage1, model.stage2) for layer in stage]
    assert [layer.channels for layer in layers[1::2]] == [4, 8, 8, 16]
    bound = model.lipschitz_bound()
    assert 1.0 <= bound < 1 + 1e-14
    jacobian = dense_jacobian(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert spectral_norm(jacobian) <= bound * (1 + 1e-12)


def test_the_head_is_as_wide_as_the_pooled_maps() -> None:
    whole, pooled = (tiny_network(pooling=pooling).eval() for pooling in (None, partial(NormPool2d, kernel_size=2)))
    assert (whole.head.in_channels, pooled.head.in_channels) == (16 * 2 * 2, 16)
    assert [name for name, _ in pooled.named_children()][-3:] == ["pooling", "flatten", "head"]
    x = torch.rand(2, 3, 8, 8)
    assert pooled(x).shape == (2, 3)
    assert pooled.lipschitz_bound() == 1.0
    features = nn.Sequential(*list(whole)[:-2])(x).detach()
    np.testing.assert_allclose(pooled.pooling(features).flatten(1), features.flatten(2).norm(dim=2), rtol=1e-6)


def test_patches_are_the_channels_of_the_first_convolution() -> None:
    model = tiny_network(patch_rotation=2, image_size=16).eval()
    assert [name for name, _ in model.named_children()][:3] == ["normalize", "patches", "stage1"]
    assert convolutions(model)[0] == (12, 4, (3, 3), 1)
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert 1 <= model.lipschitz_bound() < 1 + 1e-6
    with pytest.raises(ValueError, match="patch_rotation must divide image_size = 16, got 3"):
        tiny_network(patch_rotation=3, image_size=16)


@pytest.mark.slow
def test_pooling_that_does_not_fit_the_last_maps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of 2 x 2 divide, got \(1, 1024, 1, 1\)"):
        LipConvNet(100, pooling=NormPool2d)


@pytest.mark.parametrize(("depth", "initial_channels"), [(5, 128), (10, 64), (40, 32)])
def test_published_depths_and_widths(depth: int, initial_channels: int) -> None:
    with torch.device("meta"):
        model = LipConvNet(100, depth=depth, initial_channels=initial_channels, head=NormalizedLinear)
    assert len(convolutions(model)) == depth
    assert model.head.in_features == 32 * initial_channels


@pytest.mark.cover(0)
@pytest.mark.parametrize("setting", ["depth", "stages", "image_size"])
def test_a_setting_that_is_no_integer_is_named(setting: str) -> None:
    with pytest.raises(ValueError, match=rf"^{setting} must be an integer, got 'abc'$"):
        LipConvNet(10, **(TINY | {setting: "abc"}))


@pytest.mark.cover(0)
@pytest.mark.parametrize("depth", [5, 20, 40])
def test_depths_run(depth: int) -> None:
    model = LipConvNet(10, depth=depth, initial_channels=4, image_size=32, conv=partial(GSSOC, groups=(2, None)))
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert model.lipschitz_bound() == 1.0


@pytest.mark.parametrize(
    ("mean", "std"), [(None, 1.0), ((0.5071, 0.4865, 0.4409), 0.2673), ((0.5, 0.5, 0.5), 0.25), ((0.1, 0, 0), 2.0)]
)
def test_the_bound_is_the_reciprocal_of_the_std(mean: tuple[float, ...] | None, std: float) -> None:
    bound = tiny_network(mean=mean, std=std).eval().lipschitz_bound()
    exact = 1 / Fraction(float(torch.tensor(std, dtype=torch.float32)))
    assert exact <= Fraction(bound)
    assert bound == pytest.approx(float(exact), rel=1e-15)


@pytest.mark.parametrize("conv", [SOC, partial(GSSOC, groups=(2, 2))])
def test_pairs_of_inputs_and_jacobians_keep_within_the_bound(conv: Any) -> None:
    model = tiny_network(conv=conv, activation=MaxMinPermuted, mean=(0.5,) * 3, std=0.25).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.rand(8, 3, 8, 8).double()), 10 * torch.randn(8, 3).double()).backward()
        optimizer.step()
    # Steps as large as these leave biases beside whose rounding all small differences would vanish.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    model.eval()
    bound = model.lipschitz_bound()
    assert bound == 4.0
    x = torch.rand(200, 3, 8, 8, dtype=torch.float64)
    y = x + torch.logspace(-6, 0, 200, dtype=torch.float64).view(-1, 1, 1, 1) * torch.randn_like(x)
    with torch.no_grad():
        moved = (model(x) - model(y)).norm(dim=1)
    assert (moved <= bound * (x - y).flatten(1).norm(dim=1) * (1 + 1e-9)).all()
    norms = [spectral_norm(dense_jacobian(model, image[None])) for image in x[:3]]
    assert max(norms) <= bound * (1 + 1e-12)
    # Orthogonal layers lose nothing but what the head cuts off: a bound that is never approached would be a poor one.
    assert max(norms) > bound / 10


def test_the_bound_of_a_network_with_mirror_images_is_that_of_its_body() -> None:
    plain, mirrored = tiny_network(std=0.5).eval(), tiny_network(std=0.5, mirror=True).eval()
    assert mirrored.lipschitz_bound() == plain.lipschitz_bound() == lipschitz_bound(mirrored) == 2.0


@pytest.mark.parametrize(("options", "least"), [({}, 1.0), (PUBLISHED, 1.0 + 1e-3)], ids=["default", "published"])
def test_in_training_the_bound_is_that_of_training(options: dict[str, Any], least: float) -> None:
    model = tiny_network(conv=partial(SOC, **options), head=partial(SOCLinear, **options)).double()
    bound = model.lipschitz_bound()
    assert least <= bound < 1.2
    jacobian = dense_jacobian(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert spectral_norm(jacobian) <= bound


def test_normalisation_is_the_first_module() -> None:
    model = tiny_network(mean=(0.25, 0.5, 0.75), std=0.5).eval()
    assert isinstance(model[0], Normalize)
    assert model.state_dict().keys() == tiny_network().state_dict().keys()
    plain = tiny_network().eval()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 8, 8)
    mean = torch.tensor((0.25, 0.5, 0.75)).view(3, 1, 1)
    np.testing.assert_allclose(model(x).detach(), plain((x - mean) * 2).detach(), rtol=0, atol=1e-6)


def test_weights_that_are_not_finite_leave_no_finite_bound() -> None:
    model = tiny_network().eval()
    model.stage2[0].weight.data[0, 1] = math.nan
    assert model.lipschitz_bound() == math.inf


def test_a_module_without_a_bound_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Linear does not bound itself"):
        tiny_network(head=nn.Linear).lipschitz_bound()
    with pytest.raises(TypeError, match=r"ReLU does not bound itself"):
        tiny_network(activation=nn.ReLU).lipschitz_bound()

    class Doubling(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Steep(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * x

    with pytest.raises(TypeError, match=r"Steep does not bound itself"):
        tiny_network(activation=Steep).lipschitz_bound()

    model = tiny_network()
    model.stage1 = Doubling(*model.stage1)
    with pytest.raises(TypeError, match=r"Doubling does not bound itself"):
        model.lipschitz_bound()


@pytest.mark.parametrize(("depth", "stages"), [(14, 5), (0, 5), (4, 5), (-5, 5), (5, 0), (5, -1)])
def test_a_depth_that_the_stages_do_not_divide_is_refused(depth: int, stages: int) -> None:
    with pytest.raises(ValueError, match=f"depth must be a multiple of the {stages} stages, got depth {depth}"):
        LipConvNet(depth=depth, stages=stages)


@pytest.mark.parametrize(("image_size", "stages", "unit"), [(28, 5, 32), (8, 4, 16), (0, 2, 4), (-8, 2, 4)])
def test_an_image_size_that_the_stages_do_not_divide_is_refused(image_size: int, stages: int, unit: int) -> None:
    message = rf"image_size must be divisible by 2 \*\* stages = {unit} .*got {image_size}: images of .* fit"
    with pytest.raises(ValueError, match=message):
        LipConvNet(depth=2 * stages, stages=stages, image_size=image_size)


def test_means_must_match_the_channels() -> None:
    with pytest.raises(ValueError, match=r"mean must have one number for each of 3 channels, got \[0.5\]"):
        tiny_network(mean=(0.5,))


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 32, 32), (1, 3, 8, 10), (3, 8, 8), (3 * 64,)])
@pytest.mark.parametrize("conv", [SOC, partial(GSSOC, groups=(2, None))])
def test_images_of_another_shape_are_refused_saying_what_is_needed(conv: Any, shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"images must have shape \(B, 3, 8, 8\), got \({received},?\)"):
        tiny_network(conv=conv)(torch.zeros(shape))


def test_an_empty_batch_gives_no_logits() -> None:
    model = tiny_network(conv=partial(GSSOC, groups=(2, None)), activation=MaxMinPermuted).eval()
    assert model(torch.zeros(0, 3, 8, 8)).shape == (0, 3)


def test_a_subclass_with_another_forward_has_no_bound() -> None:
    class Doubled(LipConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    with pytest.raises(NotImplementedError, match=r"Doubled does not implement lipschitz_bound\(\)"):
        Doubled(3, **TINY).lipschitz_bound()


def test_a_stage_that_runs_twice_counts_twice() -> None:
    model = nn.Sequential()
    net = tiny_network(std=0.5)
    net.add_module("again", net.normalize)
    assert model.append(net)[0].lipschitz_bound() == 4.0


def test_a_head_of_billions_of_parameters_is_announced_before_it_is_made() -> None:
    with torch.device("meta"):
        with pytest.warns(UserWarning, match=r"2,517,631,076 parameters on 50,176 features of 7 x 7 maps; .*_size=7"):
            LipConvNet(100, depth=5, image_size=224)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LipConvNet(100, depth=5, image_size=224, pooling=partial(NormPool2d, kernel_size=7))
            LipConvNet(100, depth=5, image_size=224, head=NormalizedLinear)


def test_more_stages_than_any_image_has_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="stages must be at most 16, got 1000000000"):
        LipConvNet(depth=10**9, stages=10**9)
