"""Models that were changed after their bound was known, or that override what a bound rests on."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lipnet.certify import Signal, Step, certify, explicit_arithmetic, lipschitz_bound, rounding_bounds
from lipnet.functional.rounding_error import elementwise
from lipnet.functional.spectral_products import real_form
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
    LipschitzModule,
    LiRes,
    Normalize,
    OrthogonalMixing,
    PatchEmbedding,
    ScaledConv2d,
    SpatialMixing,
    SpatialShift,
)
from lipnet.layers.scaling import JacobianScaling
from lipnet.structured import OrthogonalMap, StructuredOrthogonal, gsoft
from tests.oracles import dense_jacobian, spectral_norm

OPERAND_LAYERS = (AOC, AOL, BCOP, BRO, CPL, LOT, SLL, Cayley, LiRes, ScaledConv2d)


def norm_of(layer: nn.Module, *shape: int) -> float:
    x = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with explicit_arithmetic(layer):
        return spectral_norm(dense_jacobian(lambda each: layer(each[None])[0], x))


CHANGES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "padding": (lambda: ScaledConv2d(4, 4, 2, padding=0, size=2), {"size": (8, 8)}, (4, 8, 8)),
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


WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda operand: operand.mul_(10),
    "through data": lambda operand: operand.data.mul_(10),
    "through numpy": lambda operand: operand.numpy().__imul__(10),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("cls", OPERAND_LAYERS)
def test_a_caller_who_writes_into_operands_changes_a_copy(cls: Callable[..., nn.Module], write: str) -> None:
    layer = cls(4, 4).double().eval()
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        bound, before = lipschitz_bound(layer), layer(x)
        WRITES[write](layer.operands((6, 6))[0])  # type: ignore[operator]
        assert layer(x).equal(before)
    assert norm_of(layer, 4, 6, 6) <= lipschitz_bound(layer) * (1 + 1e-12)
    assert lipschitz_bound(layer) == bound


def constants_of(layer: nn.Module) -> list[Tensor]:
    assert isinstance(layer, SOC)
    return [each for each in layer.prepared().constants.values() if each is not None]


CONSTANTS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], list[Tensor]]]] = {
    "filter of a series": (lambda: SOC(4, 4, engine="series"), lambda layer: [layer.prepared().factored]),
    "dense matrix": (lambda: SOC(4, 4, engine="dense"), constants_of),
    "matrices of frequencies": (lambda: SOC(4, 4, padding_mode="circular", engine="spectral"), constants_of),
    "rotation": (lambda: OrthogonalMixing(4), lambda layer: [layer.matrices()]),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_a_caller_writes_into_are_computed_again(name: str) -> None:
    build, constants = CONSTANTS[name]
    layer = build().double().eval().requires_grad_(False)
    x = torch.rand(1, 4, 4, 4, dtype=torch.float64)
    with explicit_arithmetic(layer):
        expected = layer(x)
        bound = lipschitz_bound(layer)
        for constant in constants(layer):
            constant.mul_(3)
        assert layer(x).equal(expected)
    assert lipschitz_bound(layer) == bound < 1.1


@pytest.mark.parametrize("cls", OPERAND_LAYERS)
def test_operands_that_a_caller_writes_into_are_computed_again(cls: Callable[..., nn.Module]) -> None:
    layer = cls(4, 4).double().eval()
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        expected, bound = layer(x), lipschitz_bound(layer)
        layer.operands_in_use((6, 6))[0].mul_(3)  # type: ignore[operator]
        assert layer(x).equal(expected)
        layer.operands_in_use((6, 6))[0].mul_(3)  # type: ignore[operator]
        assert lipschitz_bound(layer) == bound
        assert layer(x).equal(expected)


def test_a_real_form_that_a_caller_writes_into_is_computed_again() -> None:
    layer = Cayley(4, 4).double().eval()
    x = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad(), explicit_arithmetic(layer):
        expected = layer(x)
        layer._explicit_form(layer.operands_in_use((6, 6))[0], (6, 6)).mul_(3)
        assert layer(x).equal(expected)


def test_an_entry_of_a_setting_that_changes_in_place_is_in_the_next_bound() -> None:
    torch.manual_seed(5)
    layer = ScaledConv2d(4, 4, size=4, bias=False).double().eval()
    layer.size = [4, 4]  # type: ignore[assignment]
    small = lipschitz_bound(layer)
    layer.size[:] = [40, 40]  # type: ignore[index]
    assert small < norm_of(layer, 4, 16, 16) <= lipschitz_bound(layer)


def test_a_padding_that_changes_is_in_the_scale_of_the_next_evaluation() -> None:
    """The padding decides how the taps of a strided kernel meet, and so where its norm is largest."""
    layer, fresh = (ScaledConv2d(4, 4, 3, stride=2, padding=1).eval() for _ in range(2))
    fresh.load_state_dict(layer.state_dict())
    x = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer(x)
        for each in (layer, fresh):
            each.padding = (0, 0)
        assert layer(x).equal(fresh(x))


CIRCULAR: dict[str, Any] = {"padding_mode": "circular"}
CONTRADICTIONS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "repeated pixels": (lambda: ScaledConv2d(4, 4, **CIRCULAR), {"padding": (2, 2)}, "circular padding must be 'same'"),
    "LiRes": (lambda: LiRes(4, 4, **CIRCULAR), {"padding": (2, 2)}, "circular padding must be 'same'"),
    "kernel size": (
        lambda: ScaledConv2d(4, 4, **CIRCULAR),
        {"padding": (2, 2), "kernel_size": (5, 5)},
        r"weight must have shape \(4, 4, 5, 5\) for the layer's settings, got \(4, 4, 3, 3\)",
    ),
    "AOC groups": (lambda: AOC(8, 8, groups=2), {"groups": 1, "in_channels": 4}, "block must have kernel_size"),
    "BCOP groups": (lambda: BCOP(8, 8, groups=2), {"groups": 1, "in_channels": 4}, "block must have kernel_size"),
    "padding mode": (lambda: ScaledConv2d(4, 4, size=6, **CIRCULAR), {"padding_mode": "Circular"}, "padding_mode must"),
    "unknown padding": (lambda: AOC(4, 4), {"padding_mode": "reflect"}, "padding_mode must be one of"),
    "unknown padding of SOC": (lambda: SOC(4, 4), {"padding_mode": "reflect"}, "padding_mode must be one of"),
    "dropped inputs": (lambda: SLL(4, 4), {"channels_in": 2}, "channels_in and channels must be"),
    "dropped inputs of CPL": (lambda: CPL(4, 4), {"channels_in": 2}, "channels_in and channels must be"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_settings_that_contradict_each_other_or_the_weight_are_refused(name: str) -> None:
    build, changes, message = CONTRADICTIONS[name]
    layer = build().double().eval()
    lipschitz_bound(layer)
    for key, value in changes.items():
        setattr(layer, key, value)
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(layer)


def test_weights_that_another_thread_changes_for_a_moment_leave_no_stale_operands() -> None:
    layer, x = ScaledConv2d(4, 4, bias=False).double().eval(), torch.rand(1, 4, 6, 6, dtype=torch.float64)
    fresh, other = copy.deepcopy(layer), torch.randn_like(layer.weight)

    class Disturbed(ScaledConv2d):
        def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
            self.weight.copy_(other)
            return super().compute_operands(other, size=size)

    with torch.no_grad():
        layer.__class__ = Disturbed
        layer(x)
        layer.__class__ = ScaledConv2d
        layer.weight.copy_(fresh.weight)
        assert layer(x).equal(fresh(x))
        assert layer.lipschitz_bound() == fresh.lipschitz_bound()


def test_weights_that_another_thread_changes_leave_the_bound_of_a_copy_alone() -> None:
    """A copy shares what was computed from its weights."""
    torch.manual_seed(0)
    layer, x = ScaledConv2d(4, 4, bias=False).double().eval(), torch.rand(1, 4, 6, 6, dtype=torch.float64)
    fresh, other = copy.deepcopy(layer), torch.randn_like(layer.weight)

    class Disturbed(ScaledConv2d):
        def operands_in_use(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
            self.weight.copy_(other)
            return super().operands_in_use(size)

    with torch.no_grad():
        layer(x)
        shared = copy.deepcopy(layer)
        layer.__class__ = Disturbed
        assert layer.lipschitz_bound() != fresh.lipschitz_bound()
        assert shared.lipschitz_bound() == fresh.lipschitz_bound()


def test_the_real_form_of_a_response_belongs_to_that_response() -> None:
    layer = Cayley(2, 2).double().eval()
    first, second = (torch.randn(4, 3, 1, 2, 2, dtype=torch.complex128) for _ in range(2))
    layer._explicit_form(first, (4, 4))
    assert layer._explicit_form(second, (4, 4)).equal(real_form(second))


class Parts(LipschitzModule):
    """Modules in a plain list, which torch does not know."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = list(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def children_in_order(self) -> list[tuple[str, nn.Module]]:
        return [(str(number), part) for number, part in enumerate(self.parts)]


def test_listed_children_that_are_not_registered_are_refused() -> None:
    """No check would see this hook, and no switch to plain products would reach such a layer."""
    part = nn.Linear(4, 4).eval()
    part.register_forward_hook(lambda module, inputs, output: 10 * output)
    with pytest.raises(ValueError, match=r"lists 0 \(Linear\), which is not among its registered modules"):
        lipschitz_bound(nn.Sequential(Parts(part)).eval())


class Changing(Dataset[tuple[Tensor, int]]):
    """Images whose loading changes a model, as another thread could at that time."""

    def __init__(self, change: Callable[[], object]) -> None:
        self.change = change

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 2:
            self.change()
        return torch.rand(1, 2, 2), 0


class Cooled(LipschitzModule):
    """A layer of one's own whose bound depends on a setting, and that counts and records its calls."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature, self.calls, self.batches = temperature, 0, [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.batches.append(len(x))
        return x / self.temperature

    def lipschitz_bound(self) -> float:
        return 1 / self.temperature

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=self.lipschitz_bound())


MEANWHILE = ["weight", "buffer", "mode", "other tensor", "setting", "own setting", "module", "class", "fused step"]


@pytest.mark.parametrize("change", MEANWHILE)
def test_a_model_that_changes_while_it_is_certified_is_an_error(change: str) -> None:
    layers = nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 3), nn.Dropout(0.5), nn.ELU()
    # Only a model with modules of one's own is bounded again at the end.
    own = [Cooled(2.0)] if change == "own setting" else []
    model = nn.Sequential(*layers, *own).double().eval()
    head: Any = model[2]
    head.weight.grad = -100 * head.weight.detach()
    changes: dict[str, Callable[[], object]] = {
        "class": lambda: setattr(model[4], "__class__", nn.SiLU),
        "fused step": torch.optim.SGD([head.weight], lr=1.0, fused=True).step,
        "weight": lambda: nn.init.constant_(model[2].weight, 100),  # type: ignore[arg-type]
        "buffer": lambda: model[0].running_var.mul_(1e-3),  # type: ignore[operator, union-attr]
        "mode": model.train,
        "other tensor": lambda: setattr(model[2].weight, "data", torch.rand(3, 4).double()),
        "setting": lambda: setattr(model[4], "alpha", 10.0),
        "own setting": lambda: setattr(model[5], "temperature", 0.01),
        "module": lambda: model.__setitem__(4, nn.LeakyReLU(10.0).eval()),
    }
    with pytest.raises(RuntimeError, match="the model was changed while its certificates were computed"):
        certify(model, DataLoader(Changing(changes[change]), batch_size=1))


def test_a_repetition_that_becomes_another_one_is_an_error() -> None:
    first, second = (nn.Linear(4, 4).double() for _ in range(2))
    model = nn.Sequential(nn.Flatten(), first, second, first).eval()
    nn.init.constant_(second.weight, 100)
    with pytest.raises(RuntimeError, match="the model was changed while its certificates were computed"):
        certify(model, DataLoader(Changing(lambda: model.__setitem__(3, second)), batch_size=1))


def test_layers_of_one_s_own_may_count_and_record_their_calls() -> None:
    model = nn.Sequential(nn.Flatten(), Cooled(2.0), nn.Linear(4, 3)).double().eval()
    certify(model, DataLoader(Changing(lambda: None), batch_size=1))
    assert model[1].calls == len(model[1].batches) - 1 > 4  # type: ignore[arg-type]


def test_hooks_and_calls_that_come_while_a_model_is_certified_are_refused() -> None:
    for change in (
        lambda part: part.register_forward_hook(lambda module, inputs, output: 10 * output),
        lambda part: setattr(part, "forward", lambda x: 10 * x),
    ):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ELU()).double().eval()
        images = DataLoader(Changing(functools.partial(change, model[2])), batch_size=1)
        with pytest.raises(ValueError, match=r"2 \(ELU\) has (forward hooks|a forward of its own)"):
            certify(model, images)


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


class Threefold(SpatialShift):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)

    def lipschitz_bound(self) -> float:
        return 3.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=3.0)


class Doubled(StructuredOrthogonal):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Lopsided(JacobianScaling):
    def scaled(self, skew: Tensor, vectors: list[Tensor], factor: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        scaled, new = super().scaled(skew, vectors, factor)
        return scaled + scaled.abs(), new


PARTS: dict[str, tuple[Callable[[], nn.Module], str, Callable[[], nn.Module]]] = {
    "activation as a shift": (lambda: SpatialMixing(8), "shift", lambda: nn.LeakyReLU(3.0)),
    "shift with a bound of its own": (lambda: SpatialMixing(8), "shift", Threefold),
    "layer of lipnet as a shift": (lambda: SpatialMixing(8), "shift", lambda: Normalize([0.0] * 8, 0.1)),
    "rotation": (lambda: SpatialMixing(8), "rotation", lambda: type("Mine", (OrthogonalMixing,), {})(8)),
    "matrix": (lambda: OrthogonalMap(gsoft(8, 2)), "matrix", lambda: Doubled(8, 2)),
    "scaling": (lambda: SOC(8, 8, engine="series"), "scaling", lambda: Lopsided(1, 8, (3, 3), None, None)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_class_than_the_bound_rests_on_is_refused(name: str) -> None:
    build, part, replacement = PARTS[name]
    layer = build().double().eval()
    assert lipschitz_bound(layer) < 1.1
    setattr(layer, part, replacement().double().eval())
    with pytest.raises(ValueError, match=f"{part} must be of class .*, on which the bound rests, got"):
        lipschitz_bound(layer)


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


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("cls", [LiRes, ScaledConv2d, lambda channels, _: OrthogonalMixing(channels)])
def test_a_trace_by_torch_export_has_the_present_weights(cls: Callable[..., nn.Module]) -> None:
    layer = cls(4, 4).eval().requires_grad_(False)
    x = torch.rand(2, 4, 6, 6)
    layer(x)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    program = torch.export.export(layer, (x,), strict=False).module()
    assert torch.allclose(program(x), layer(x), atol=1e-4)
