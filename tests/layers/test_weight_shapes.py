"""Weights, biases and kernels that were exchanged for others of another shape than the settings state are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from lipnet.certify import lipschitz_bound
from lipnet.functional import same_convolution
from lipnet.layers import (
    AOC,
    AOL,
    BCOP,
    BRO,
    CPL,
    LOT,
    SLL,
    SOC,
    AOLLinear,
    BROLinear,
    Cayley,
    CayleyLinear,
    Cholesky,
    Householder,
    HouseholderOrder2,
    LiRes,
    NormalizedLinear,
    OrthogonalMixing,
    Sandwich,
    ScaledConv2d,
    SOC1d,
    SOCLinear,
    SOCTranspose,
    SpatialMixing,
)

Make = Callable[[], nn.Module]
CONVOLUTIONS = (AOC, AOL, BCOP, BRO, CPL, Cayley, LOT, LiRes, ScaledConv2d, SLL, SOC, SOCTranspose)
DENSE = (AOLLinear, BROLinear, CayleyLinear, Cholesky, NormalizedLinear, Sandwich, SOCLinear)
IMAGE = (4, 6, 6)
LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    **{cls.__name__: (lambda cls=cls: cls(4, 4), IMAGE) for cls in CONVOLUTIONS},  # type: ignore[misc]
    **{f"{cls.__name__} in groups": (lambda cls=cls: cls(4, 4, groups=2), IMAGE) for cls in CONVOLUTIONS},  # type: ignore[misc]
    **{cls.__name__: (lambda cls=cls: cls(4, 4), (4,)) for cls in DENSE},  # type: ignore[misc]
    "AOC with a stride": (lambda: AOC(4, 16, stride=2), IMAGE),
    "AOL with a stride": (lambda: AOL(4, 8, stride=2), IMAGE),
    "SOC1d": (lambda: SOC1d(4, 4, 3), (4, 6)),
    "SOCTranspose of a SOC": (lambda: SOCTranspose.inverse_of(SOC(4, 4)), IMAGE),
    "OrthogonalMixing": (lambda: OrthogonalMixing(4), IMAGE),
    "OrthogonalMixing in groups": (lambda: OrthogonalMixing(4, 2), IMAGE),
    "SpatialMixing": (lambda: SpatialMixing(4, share=0.25), IMAGE),
    "Householder": (lambda: Householder(4), IMAGE),
    "HouseholderOrder2": (lambda: HouseholderOrder2(4), IMAGE),
}


def other_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Shapes that are larger or smaller in one dimension, or have another number of dimensions."""
    yield from ((1, *shape), (*shape, 1))
    for place, length in enumerate(shape):
        yield from ((*shape[:place], other, *shape[place + 1 :]) for other in (length + 1, 1) if other != length)


def parameters_of(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_parameters()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("layer", "parameter"), [(name, each) for name, (make, _) in LAYERS.items() for each in parameters_of(make())]
)
def test_a_parameter_of_another_shape_is_refused(layer: str, parameter: str, training: bool) -> None:
    make, shape = LAYERS[layer]
    module = make().train(training)
    x = torch.rand(2, *shape)
    module(x)
    path, _, name = parameter.rpartition(".")
    present = tuple(module.get_parameter(parameter).shape)
    for other in other_shapes(present):
        changed = copy.deepcopy(module)
        setattr(changed.get_submodule(path), name, nn.Parameter(torch.randn(other)))
        message = rf"{name} must have shape .* for the layer's settings, got "
        with pytest.raises(ValueError, match=message):
            changed(x)
        with pytest.raises(ValueError, match=message):
            lipschitz_bound(changed.eval())


SILENT: dict[str, tuple[Make, tuple[int, ...], str, tuple[int, ...]]] = {
    "AOL": (lambda: AOL(1, 1, 3, padding_mode="circular"), (1, 8, 8), "weight", (1, 1, 5, 5)),
    "CPL": (lambda: CPL(1, 1, 3), (1, 8, 8), "weight", (1, 1, 5, 5)),
    "SLL": (lambda: SLL(1, 1, 3), (1, 8, 8), "weight", (1, 1, 5, 5)),
    "NormalizedLinear": (lambda: NormalizedLinear(4, 4), (4,), "bias", (1,)),
    "Sandwich": (lambda: Sandwich(4, 4), (4,), "hidden_bias", (1,)),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_parameter_that_torch_would_accept_is_refused(name: str) -> None:
    make, shape, parameter, other = SILENT[name]
    layer = make().eval()
    setattr(layer, parameter, nn.Parameter(torch.rand(other)))
    with pytest.raises(ValueError, match=rf"{parameter} must have shape"):
        layer(torch.rand(2, *shape))
    with pytest.raises(ValueError, match=rf"{parameter} must have shape"):
        lipschitz_bound(layer)


@pytest.mark.parametrize("cls", [AOL, BCOP, BRO, CPL, Cayley, LOT, SLL, SOC])
def test_an_even_kernel_is_refused_even_if_kernel_size_states_it(cls: Callable[..., nn.Module]) -> None:
    """AOL would repeat border pixels, CPL and SLL whole maps of one pixel: their norm would be above the bound."""
    layer = cls(1, 1, 3, padding_mode="circular")
    before = getattr(layer, "weight", torch.empty(1, 1, 3, 3))
    layer.weight = nn.Parameter(torch.rand(*before.shape[:2], 2, 2))
    layer.kernel_size = (2, 2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="kernel_size must be odd, got"):
        layer(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="kernel_size must be odd, got"):
        lipschitz_bound(layer.eval())


def test_a_same_convolution_with_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight must have odd kh and kw, got \(1, 1, 2, 3\)"):
        same_convolution(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 2, 3), padding_mode="circular")


@pytest.mark.parametrize("setting", ["kernel_size", "groups"])
@pytest.mark.parametrize("cls", [AOC, BCOP])
def test_a_block_with_other_settings_than_its_layer_is_refused(cls: Callable[..., nn.Module], setting: str) -> None:
    layer = cls(4, 4).eval()
    setattr(layer.block, setting, {"kernel_size": (2, 2), "groups": 2}[setting])
    with pytest.raises(ValueError, match=r"block must have kernel_size .* and groups"):
        layer(torch.rand(1, 4, 6, 6))


def test_angles_that_are_integers_are_refused() -> None:
    """Their sines would be computed in float32."""
    layer = HouseholderOrder2(2).double().eval()
    del layer.theta
    layer.register_buffer("theta", torch.ones(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"theta must have a floating-point dtype, got torch\.int64"):
        lipschitz_bound(layer)
