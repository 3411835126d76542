"""Groups that cannot affect the output are not computed, and nothing else changes."""

from typing import Any

import pytest
import torch

from lipnet.functional import same_convolution
from lipnet.layers import SOC
from tests.settings import PATHS, PUBLISHED, SCALINGS

CASES = [
    # in, out, stride, groups -> groups that see an input and whose output is kept
    pytest.param(8, 8, 1, 4, 4, id="all"),
    pytest.param(3, 16, 1, 4, 1, id="stem"),
    pytest.param(8, 16, 2, 4, 2, id="stride"),
    pytest.param(16, 6, 1, 4, 2, id="cut inside a group"),
    pytest.param(5, 16, 1, 4, 2, id="padded inside a group"),
]


@pytest.mark.cover(1)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "stride", "groups", "active"), CASES)
def test_the_result_is_that_of_all_groups(
    inputs: int,
    outputs: int,
    stride: int,
    groups: int,
    active: int,
    training: bool,
    padding_mode: str,
    engine: str,
    scaling: str,
) -> None:
    torch.manual_seed(0)
    options = {"padding_mode": padding_mode, "engine": engine, "scaling": scaling, "dtype": torch.float64}
    precise = {"train_tolerance": 1e-13, "eval_tolerance": 1e-13}
    layer = SOC(inputs, outputs, stride=stride, groups=groups, bias=False, **options, **precise).train(training)
    assert layer.active_groups == active
    x = torch.randn(2, inputs, 4, 4, dtype=torch.float64)

    maps = torch.nn.functional.pixel_unshuffle(x, stride)
    power = torch.cat((maps, maps.new_zeros(2, layer.channels - maps.shape[1], *maps.shape[2:])), dim=1)
    expected, weight = power, layer.filter()
    for degree in range(1, 30):
        power = same_convolution(power, weight, groups, padding_mode) / degree
        expected = expected + power
    for _ in range(2):  # the second time, an evaluation takes what it kept
        with torch.set_grad_enabled(training):
            vectors = [each.clone() for each in layer.scaling.buffers()]
            torch.testing.assert_close(layer(x), expected[:, :outputs], rtol=0, atol=3e-11)
            layer.scaling.store(vectors)


@pytest.mark.parametrize("options", [{}, {"engine": "dense"}, PUBLISHED], ids=["default", "dense", "published"])
@pytest.mark.parametrize(("inputs", "outputs", "stride", "groups", "active"), CASES)
def test_gradients_reach_the_groups_that_are_used(
    inputs: int, outputs: int, stride: int, groups: int, active: int, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    layer = SOC(inputs, outputs, stride=stride, groups=groups, **options)
    unused_vectors = [each[active:].clone() for each in layer.scaling.buffers()]
    layer(torch.randn(2, inputs, 4, 4)).square().sum().backward()
    assert all(map(torch.equal, unused_vectors, (each[active:] for each in layer.scaling.buffers())))
    assert layer.weight.grad is not None
    per_group = layer.weight.shape[1]
    used = layer.weight.grad[: active * per_group].abs().sum()
    unused = layer.weight.grad[active * per_group :].abs().sum()
    assert used > 0
    assert unused == 0
