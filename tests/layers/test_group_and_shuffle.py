"""GroupAndShuffle over SOC, which is GSSOC, and over a layer whose groups must divide its channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.functional.rounding import product_up
from lipnet.functional.rounding_error import Signal, Step, products
from lipnet.layers import GSSOC, SOC, ChannelShuffle, GroupAndShuffle, MaxMinPermuted
from lipnet.layers.operands import OperandLayer, Operands
from lipnet.models import LipConvNet, build_model
from tests.oracles import dense_jacobian, spectral_norm


class Averaged(OperandLayer):
    """A grouped convolution whose kernel is divided by the largest absolute sum of a row or column of its taps."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: str = "same",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "circular",
        *,
        gain: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias, padding_mode=padding_mode)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"channels must divide by groups, got {in_channels}, {out_channels} and {groups}")
        self.groups, self.gain = groups, gain
        taps = self.kernel_size
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels * stride**2 // groups, *taps, dtype=dtype))
        self.reset_bias()
        self.to(dtype)

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        (weight,) = weights
        return (self.gain * weight / _largest_sum(weight, self.groups),)

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        rows, columns = (k // 2 for k in self.kernel_size)
        mode = "constant" if self.padding_mode == "zeros" else "circular"
        return F.conv2d(F.pad(maps, (columns, columns, rows, rows), mode=mode), operands[0], groups=self.groups)

    def bound_operands(self, operands: Operands) -> float:
        return float(_largest_sum(operands[0].double(), self.groups)) * (1 + 1e-10)

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        norm, outputs = self.bound_operands(operands), self.out_channels * prod(size)
        return products(signal, length=operands[0][0].numel(), magnitude=norm, gain=norm, outputs=outputs)


def _largest_sum(weight: Tensor, groups: int) -> Tensor:
    taps = weight.abs().sum((2, 3)).unflatten(0, (groups, -1))
    return torch.maximum(taps.sum(-1).amax(), taps.sum(1).amax())


@pytest.mark.parametrize("groups", [(4, None), (4, 2)])
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_gs_soc_is_the_instance_over_soc(groups: tuple[int, int | None], padding_mode: str) -> None:
    settings: dict[str, Any] = {"kernel_size": 3, "stride": 2, "groups": groups, "padding_mode": padding_mode}
    named = GSSOC(8, 16, eval_terms=7, **settings)
    general = GroupAndShuffle(8, 16, layer=partial(SOC, eval_terms=7), **settings)
    general.load_state_dict(named.state_dict())
    assert repr(general) == repr(named).replace("GSSOC", "GroupAndShuffle")
    x = torch.randn(2, 8, 8, 8)
    for training in (True, False):
        assert torch.equal(named.train(training)(x), general.train(training)(x))
        assert named.lipschitz_bound() == general.lipschitz_bound()


@pytest.mark.parametrize("wrap", [lambda layer: layer, partial, lambda layer: partial(partial(layer))])
def test_a_layer_that_pads_keeps_its_groups_on_images(wrap: Callable[..., Any]) -> None:
    settings: dict[str, Any] = {"groups": (4, None)}
    assert GroupAndShuffle(3, 16, layer=wrap(SOC), **settings).spatial.groups == 4
    assert GroupAndShuffle(3, 16, layer=wrap(Averaged), **settings).spatial.groups == 1
    assert GroupAndShuffle(8, 16, layer=wrap(Averaged), **settings).spatial.groups == 4


def test_channels_out_that_do_not_divide_are_the_layers_error() -> None:
    with pytest.raises(ValueError, match="channels must divide by groups, got 8, 6 and 4"):
        GroupAndShuffle(8, 6, layer=Averaged, groups=(4, None))


@pytest.mark.parametrize("paired", [True, False])
def test_the_function_is_the_composition_of_the_four(paired: bool) -> None:
    layer = GroupAndShuffle(8, 16, stride=2, groups=(2, 4), layer=Averaged, paired=paired, dtype=torch.float64).eval()
    x = torch.randn(3, 8, 4, 6, dtype=torch.float64)
    maps = layer.spatial(ChannelShuffle(2, paired)(x))
    assert torch.equal(layer(x), layer.pointwise(ChannelShuffle(4, paired)(maps)))
    assert torch.equal(layer(x)[1], layer(x[1]))


@pytest.mark.parametrize("training", [True, False])
def test_the_bound_is_the_product_of_both_convolutions(training: bool) -> None:
    """A layer that is no contraction: its bound must count in the product."""
    make = partial(Averaged, gain=2.0)
    layer = GroupAndShuffle(4, 8, groups=(2, 2), layer=make, dtype=torch.float64).train(training)
    parts = [layer.spatial.lipschitz_bound(), layer.pointwise.lipschitz_bound()]
    assert layer.lipschitz_bound() == lipschitz_bound(layer.eval()) == product_up(parts) > 4
    assert spectral_norm(dense_jacobian(layer, torch.randn(1, 4, 4, 4, dtype=torch.float64))) <= product_up(parts)


def test_options_reach_both_and_the_padding_mode_the_first() -> None:
    settings: dict[str, Any] = {"groups": (2, 2), "layer": Averaged, "bias": False, "gain": 0.5}
    layer = GroupAndShuffle(8, 8, **settings, padding_mode="zeros")
    assert (layer.spatial.padding_mode, layer.pointwise.padding_mode) == ("zeros", "circular")
    assert GroupAndShuffle(8, 8, **settings).spatial.padding_mode == "circular"
    for part in (layer.spatial, layer.pointwise):
        assert (part.gain, part.bias, part.groups) == (0.5, None, 2)
    assert (layer.spatial.kernel_size, layer.pointwise.kernel_size) == ((3, 3), (1, 1))


def test_a_layer_is_needed() -> None:
    with pytest.raises(TypeError, match="layer"):
        GroupAndShuffle(8, 8)  # type: ignore[call-arg]


def test_a_network_over_another_layer_is_certified() -> None:
    conv = partial(GroupAndShuffle, layer=Averaged, groups=(2, None))
    model = LipConvNet(
        3, depth=4, stages=2, initial_channels=4, in_channels=1, image_size=8, conv=conv, activation=MaxMinPermuted
    )
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    model = model.double().eval()
    certificates = certify(model, images, model(images).argmax(1))
    assert bool((certificates.radius > 0).all())
    assert lipschitz_bound(model) == model.lipschitz_bound() <= 1 + 1e-8


NESTED = {
    "_target_": "lipnet.layers.GroupAndShuffle",
    "in_channels": 4,
    "out_channels": 4,
    "groups": [2, None],
    "layer": {"_target_": "lipnet.layers.SOC", "_partial_": True, "eval_terms": 7},
}


def test_a_nested_configuration_is_built() -> None:
    layer = build_model(NESTED)
    assert isinstance(layer, GroupAndShuffle)
    assert isinstance(layer.spatial, SOC)
    assert layer.spatial.eval_terms == 7


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "torch.nn.init.normal_", "lipnet.files.atomic_write"])
def test_a_nested_layer_from_elsewhere_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=f"modules alone, got _target_ '{target}'"):
        build_model({**NESTED, "layer": {"_target_": target, "_partial_": True}})
