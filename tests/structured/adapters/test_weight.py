"""The parametrization on an adapted weight."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnet.structured import LowRank
from lipnet.structured.adapters import AdapterConfig, GSOFTConfig, LoRAConfig, attach, detach
from lipnet.structured.adapters.weight import AdaptedWeight, put_on, take_off


def test_without_an_adapter_the_weight_itself_comes_through() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    assert AdaptedWeight()(weight) is weight


def test_a_weight_of_a_convolution_is_a_matrix_to_the_update() -> None:
    adapted, weight = AdaptedWeight(), torch.randn(4, 3, 2, 5)
    update = LowRank(4, 30, rank=2)
    nn.init.normal_(update.B)
    adapted.updates["a"] = update
    adapted.active = "a"
    expected = (weight.flatten(1) + update.to_dense()).reshape(4, 3, 2, 5)
    assert torch.equal(adapted(weight.to(memory_format=torch.channels_last)), expected)
    assert adapted(weight).is_contiguous()


def test_what_was_put_on_comes_off_to_the_same_place() -> None:
    layer = nn.Linear(3, 2)
    weight = layer.weight
    adapted = put_on(layer, "weight")
    assert layer.weight is weight
    assert repr(adapted).startswith("AdaptedWeight(\n  active=None")
    take_off(layer, "weight", adapted)
    assert [*layer._parameters] == ["weight", "bias"]
    assert layer.weight is weight
    assert type(layer) is nn.Linear


def adapted_layer(config: AdapterConfig, bias: bool = True) -> nn.Linear:
    """A linear layer of 16 to 8 features in float64 with an adapter away from its start."""
    layer = nn.Linear(16, 8, bias=bias, dtype=torch.float64)
    attach(layer, config)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def results(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """Return outputs, and the gradients of inputs and trained parameters."""
    x = x.detach().requires_grad_()
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    y = layer(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), [x, *trained])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16,), (5, 16), (2, 0, 16), (2, 3, 16)])
def test_training_by_the_structure_gives_what_the_weight_gives(
    config: AdapterConfig, bias: bool, shape: tuple[int, ...]
) -> None:
    layer, x = adapted_layer(config, bias), torch.randn(shape, dtype=torch.float64)
    for by_structure, by_weight in zip(results(layer.train(), x), results(layer.eval(), x), strict=True):
        torch.testing.assert_close(by_structure, by_weight, rtol=1e-10, atol=1e-10)


def test_training_forms_no_weight(config: AdapterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = adapted_layer(config)
    formed = Mock(side_effect=AssertionError("the weight was formed"))
    monkeypatch.setattr(AdaptedWeight, "forward", formed)
    layer.train()(torch.zeros(3, 16, dtype=torch.float64)).sum().backward()
    with pytest.raises(AssertionError, match="the weight was formed"):
        layer.eval()(torch.zeros(3, 16, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_low_precision_and_under_autocast(config: AdapterConfig, dtype: torch.dtype) -> None:
    layer, x = adapted_layer(config).float().train(), torch.randn(5, 16)
    expected = layer(x).detach()
    with torch.autocast("cpu", dtype=dtype):
        under_autocast = layer(x)
    assert under_autocast.dtype == dtype
    torch.testing.assert_close(under_autocast.float(), expected, atol=0.1, rtol=0.05)
    for name, parameter in layer.named_parameters():
        parameter.data = parameter.data.to(dtype) if "updates" not in name else parameter.data
    low = layer(x.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), expected, atol=0.1, rtol=0.05)
    low.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters() if parameter.requires_grad)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_what_stands_on_top_of_the_adapters_acts_in_training_too() -> None:
    layer = adapted_layer(GSOFTConfig(4))
    x = torch.randn(3, 16, dtype=torch.float64)
    parametrize.register_parametrization(layer, "weight", Double())
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_a_layer_that_stays_parametrized_gets_its_forward_pass_back() -> None:
    layer, x = nn.Linear(16, 8), torch.randn(3, 16)
    parametrize.register_parametrization(layer, "bias", Double())
    expected = layer(x)
    detach(attach(layer, LoRAConfig(2)))
    assert type(layer).forward is nn.Linear.forward
    assert torch.equal(layer(x), expected)


def test_a_forward_pass_of_its_own_stays() -> None:
    class Shifted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    layer, x = Shifted(16, 8), torch.randn(3, 16)
    expected = layer(x)
    attach(layer, LoRAConfig(2))
    assert torch.equal(layer.train()(x), expected)


@pytest.mark.slow
def test_training_can_be_compiled(config: AdapterConfig) -> None:
    layer, x = adapted_layer(config).train(), torch.randn(3, 16, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x), layer(x))
