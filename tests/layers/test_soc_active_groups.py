"""Groups that cannot matter are left out of the computation, and nothing else changes."""

import pytest
import torch

from lipnet.functional import same_convolution
from lipnet.layers import SOC

CASES = [
    # in, out, stride, groups -> groups that see an input and whose output is kept
    pytest.param(8, 8, 1, 4, 4, id="all"),
    pytest.param(3, 16, 1, 4, 1, id="stem"),
    pytest.param(8, 16, 2, 4, 2, id="stride"),
    pytest.param(16, 6, 1, 4, 2, id="cut inside a group"),
    pytest.param(5, 16, 1, 4, 2, id="padded inside a group"),
]


@pytest.mark.parametrize(("inputs", "outputs", "stride", "groups", "active"), CASES)
def test_the_result_is_that_of_all_groups(inputs: int, outputs: int, stride: int, groups: int, active: int) -> None:
    torch.manual_seed(0)
    layer = SOC(inputs, outputs, stride=stride, groups=groups, bias=False, dtype=torch.float64).eval()
    assert layer.active_groups == active
    x = torch.randn(2, inputs, 4, 4, dtype=torch.float64)

    maps = torch.nn.functional.pixel_unshuffle(x, stride)
    power = torch.cat((maps, maps.new_zeros(2, layer.channels - maps.shape[1], *maps.shape[2:])), dim=1)
    expected, weight = power, layer.filter()
    for degree in range(1, layer.eval_terms + 1):
        power = same_convolution(power, weight, groups) / degree
        expected = expected + power
    torch.testing.assert_close(layer(x), expected[:, :outputs], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("inputs", "outputs", "stride", "groups", "active"), CASES)
def test_training_too(inputs: int, outputs: int, stride: int, groups: int, active: int) -> None:
    torch.manual_seed(0)
    layer = SOC(inputs, outputs, stride=stride, groups=groups)
    layer(torch.randn(2, inputs, 4, 4)).square().sum().backward()
    assert layer.weight.grad is not None
    per_group = layer.weight.shape[1]
    used = layer.weight.grad[: active * per_group].abs().sum()
    unused = layer.weight.grad[active * per_group :].abs().sum()
    assert used > 0
    assert unused == 0
