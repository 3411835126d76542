"""Models that were changed after their bound was known, or that override what a bound rests on."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import Signal, Step, certify, explicit_arithmetic, lipschitz_bound, rounding_bounds
from lipnet.functional.rounding_error import elementwise
from lipnet.layers import (
    AOC,
    AOL,
    BCOP,
    BRO,
    CPL,
    LOT,
    SLL,
    SOC,
    Cayley,
    GroupAndShuffle,
    Householder,
    LiRes,
    OrthogonalMixing,
    PatchEmbedding,
    ScaledConv2d,
    SpatialShift,
)
from tests.oracles import dense_jacobian, spectral_norm

OPERAND_LAYERS = (AOC, AOL, BCOP, BRO, CPL, LOT, SLL, Cayley, LiRes, ScaledConv2d)


def norm_of(layer: nn.Module, *shape: int) -> float:
    x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with explicit_arithmetic(layer):
        return spectral_norm(dense_jacobian(lambda each: layer(each[None])[0], x))


CHANGES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "padding": (lambda: ScaledConv2d(4, 4, 2, padding=0, size=2), {"size": (8, 8)}, (4, 8, 8)),
    "AOC groups": (lambda: AOC(8, 8, groups=2), {"groups": 1, "in_channels": 4}, (4, 6, 6)),
    "BCOP groups": (lambda: BCOP(8, 8, groups=2), {"groups": 1, "in_channels": 4}, (4, 6, 6)),
    "AOL groups": (lambda: AOL(8, 8, groups=2), {"groups": 1, "in_channels": 4}, (4, 6, 6)),
    "dilation": (lambda: AOC(4, 16, stride=2), {"dilation": (3, 3)}, (4, 8, 8)),
    "depth": (lambda: LiRes(4, 4, depth=9), {"depth": 1}, (4, 6, 6)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_changes_after_the_bound_is_in_the_next_bound(name: str) -> None:
    build, changes, shape = CHANGES[name]
    torch.manual_seed(0)
    layer = build().double().eval()
    lipschitz_bound(layer)
    for key, value in changes.items():
        setattr(layer, key, value)
    assert norm_of(layer, *shape) <= lipschitz_bound(layer) * (1 + 1e-12)


@pytest.mark.parametrize("cls", OPERAND_LAYERS)
def test_operands_that_a_caller_writes_into_are_computed_anew(cls: Callable[..., nn.Module]) -> None:
    layer = cls(4, 4).double().eval()
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        bound, before = lipschitz_bound(layer), layer(x)
        layer.operands((6, 6))[0].mul_(10)  # type: ignore[operator]
        assert layer(x).equal(before)
    assert norm_of(layer, 4, 6, 6) <= lipschitz_bound(layer) * (1 + 1e-12)
    assert lipschitz_bound(layer) == bound


HELPERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "convolution of torch": (lambda: nn.Conv2d(4, 4, 1), "_conv_forward"),
    "operands": (lambda: AOL(4, 4), "apply_operands"),
    "bound": (lambda: ScaledConv2d(4, 4), "bound_operands"),
    "exponential": (lambda: SOC(4, 4), "exponential"),
    "product": (lambda: OrthogonalMixing(4), "rotate"),
    "shift": (lambda: SpatialShift(0.25), "_move"),
    "map of pairs": (lambda: Householder(4), "_map"),
    "patches": (lambda: PatchEmbedding(4, 2), "_patches"),
}


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_that_is_replaced_on_an_instance_is_refused(name: str) -> None:
    build, helper = HELPERS[name]
    module = build().eval()
    vars(module)[helper] = getattr(module, helper)
    with pytest.raises(ValueError, match=f"has a {helper} of its own instead of its class's"):
        lipschitz_bound(module)


@pytest.mark.parametrize("name", sorted(set(HELPERS) - {"convolution of torch", "bound"}))
def test_a_subclass_that_overrides_what_its_bound_rests_on_is_refused(name: str) -> None:
    build, helper = HELPERS[name]
    plain = build().eval()
    plain.__class__ = type("Louder", (type(plain),), {helper: lambda *a, **k: None, "__module__": "elsewhere"})
    with pytest.raises(ValueError, match=rf"Louder\) overrides {helper} below the class that defines"):
        lipschitz_bound(plain)


def test_a_subclass_with_a_bound_of_its_own_or_another_start_is_accepted() -> None:
    class Zeroed(AOL):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self.weight)

    class Louder(SpatialShift):
        def _move(self, maps: Tensor, dim: int, step: int) -> Tensor:
            return 10 * super()._move(maps, dim, step)

        def lipschitz_bound(self) -> float:
            return 10.0

    class Complete(Louder):
        def _move(self, maps: Tensor, dim: int, step: int) -> Tensor:
            return 2 * super()._move(maps, dim, step)

        def lipschitz_bound(self) -> float:
            return 20.0

        def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
            return elementwise(signal, roundings=2, gain=20.0)

    for each in (Zeroed, Louder, Complete):
        each.__module__ = "elsewhere"
    assert lipschitz_bound(Complete(0.25).eval()) == 20
    assert lipschitz_bound(Zeroed(4, 4).eval()) < 1e-100
    with pytest.raises(ValueError, match=r"overrides _move below the class that defines rounding_step"):
        lipschitz_bound(Louder(0.25).eval())


def test_group_and_shuffle_counts_a_part_that_runs_twice_twice() -> None:
    layer = GroupAndShuffle(8, 8, 1, groups=(2, 2), layer=nn.Conv2d).double().eval()
    nn.init.normal_(layer.spatial.weight)  # type: ignore[arg-type]
    layer.pointwise = layer.spatial
    assert norm_of(layer, 8, 2, 2) <= lipschitz_bound(layer) * (1 + 1e-12)


class Loud(Tensor):
    """A tensor that multiplies results by 10."""


def test_a_plain_attribute_in_place_of_a_weight_is_checked_as_a_weight() -> None:
    layer = nn.Conv2d(4, 4, 1, bias=False).eval()
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight.as_subclass(Loud)
    with pytest.raises(ValueError, match="has weight of type Loud"):
        lipschitz_bound(layer)
    layer.weight = weight.to(torch.complex64)
    with pytest.raises(ValueError, match=r"has weight of dtype torch\.complex64"):
        lipschitz_bound(layer)


@pytest.mark.parametrize(
    "convolution", [lambda: nn.Conv2d(2, 2, 1), lambda: nn.ConvTranspose2d(2, 2, 1), lambda: SOC(2, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_that_counts_as_channels_is_refused(convolution: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """Two images (1, 4, 4), flattened to (2, 4, 4), are one image of two channels."""
    model = nn.Sequential(nn.Flatten(1, 2), convolution(), nn.Flatten(), nn.Linear(16, 2)).to(dtype).eval()
    with pytest.raises(ValueError, match="does not compute each image by itself; a batch of one fails"):
        certify(model, torch.rand(2, 1, 4, 4), [0, 1], ignore_rounding=dtype == torch.float32)
    if dtype == torch.float64:
        with pytest.raises(ValueError, match="does not compute each image by itself"):
            rounding_bounds(model, (1, 4, 4))


def test_the_bound_of_a_positive_kernel_is_not_below_its_exact_sum() -> None:
    """The taps sum to exactly 1 + 2^-54, which rounds to 1."""
    layer = ScaledConv2d(1, 1, (1, 2), padding=0, bias=False, dtype=torch.float64).eval()
    kernel = torch.tensor([[[[1.0, 2.0**-54]]]], dtype=torch.float64)
    exact = sum(map(Fraction, kernel.flatten().tolist()))
    assert Fraction(layer.bound_operands((kernel,))) >= exact


@pytest.mark.parametrize("cls", [LiRes, ScaledConv2d, lambda channels, _: OrthogonalMixing(channels)])
def test_a_trace_by_torch_export_has_the_present_weights(cls: Callable[..., nn.Module]) -> None:
    layer = cls(4, 4).eval().requires_grad_(False)
    x = torch.rand(2, 4, 6, 6)
    layer(x)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    program = torch.export.export(layer, (x,), strict=False).module()
    assert torch.allclose(program(x), layer(x), atol=1e-4)
