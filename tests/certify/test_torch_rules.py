"""Rules of torch's modules: constants against fine grids and dense Jacobians, refused settings, parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import exp, inf, log, nan, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lipnet.certify import lipschitz_bound, rounding_bounds
from lipnet.certify.rules import step_of
from lipnet.functional.rounding_error import Signal
from lipnet.layers import SOC, Residual
from tests import exact_arithmetic
from tests.oracles import dense_jacobian, spectral_norm

ROUNDING = 1 + 1e-9


def jacobian_norm(module: nn.Module, point: Tensor) -> float:
    return spectral_norm(dense_jacobian(module, point.unsqueeze(0)))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def derivatives(module: nn.Module, x: Tensor, order: int) -> Tensor:
    """Return a derivative of a function of each entry, by automatic differentiation."""
    x = x.detach().requires_grad_()
    values: Tensor = module(x)
    for _ in range(order):
        (values,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return values.detach()


SLOPES: dict[str, Callable[[], nn.Module]] = {
    "GELU": nn.GELU,
    "GELU by tanh": lambda: nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU,
}


@pytest.mark.parametrize("name", SLOPES)
def test_slopes_that_are_rounded_decimals_are_the_largest(name: str) -> None:
    """A cell of width h holds no slope above those at its ends by more than h^2 / 8 times the third derivative."""
    module = SLOPES[name]().eval()
    bound = lipschitz_bound(module)
    coarse = torch.arange(-30.0, 30.0, 1e-3, dtype=torch.float64)
    third = 2 * float(derivatives(module, coarse, 2).diff().abs().max()) / 1e-3
    slopes = derivatives(module, coarse, 1).abs()
    near = coarse[slopes > bound - third * 1e-6]
    fine = torch.arange(float(near.min()) - 1e-3, float(near.max()) + 1e-3, 1e-6, dtype=torch.float64)
    assert 0 < len(near) < 100, "the largest slopes are near one point"
    largest = float(derivatives(module, fine, 1).abs().max()) + third * 1e-12 / 8
    assert largest < bound < largest + 1e-9


MODULES: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "PReLU": (lambda: nn.PReLU(init=-2.5), 2.5),
    "flat PReLU": (lambda: nn.PReLU(init=0.5), 1.0),
    "ELU": (nn.ELU, 1.0),
    "steep ELU": (lambda: nn.ELU(3.0), 3.0),
    "falling ELU": (lambda: nn.ELU(-2.0), 2.0),
    "Sigmoid": (nn.Sigmoid, 0.25),
    "Softplus": (lambda: nn.Softplus(3.0), 1.0),
    "zero padding": (lambda: nn.ZeroPad2d((1, 2, 0, -1)), 1.0),
    "nearest": (lambda: nn.Upsample(scale_factor=(2, 4)), sqrt(8)),
    "nearest by its own class": (lambda: nn.UpsamplingNearest2d(scale_factor=(2, 2)), 2.0),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_without_weights_are_bounded_by_what_their_jacobians_reach(name: str) -> None:
    make, expected = MODULES[name]
    module = make().double().eval()
    norms = [jacobian_norm(module, shift + 1e-6 * noise(2, 4, 4)) for shift in (-20.0, -1e-5, 1e-5, 10.0)]
    assert lipschitz_bound(module) == pytest.approx(expected, rel=1e-15)
    assert max(norms) <= lipschitz_bound(module) * ROUNDING
    assert max(norms) == pytest.approx(expected, rel=1e-4)


AVERAGES = [(3, 2, 1), (2, 1, 0), (3, 1, 1), ((3, 2), (1, 2), 0), (5, 2, 2), (2, 3, 0), (4, 2, 0)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), AVERAGES, ids=str)
def test_overlapping_means_are_bounded_by_their_matrices(kernel: Any, stride: Any, padding: int) -> None:
    """The bound is the norm on large maps: at least 0.8 of it is reached on maps of 16 x 16."""
    module = nn.AvgPool2d(kernel, stride, padding).eval()
    norm = jacobian_norm(module, torch.zeros(1, 16, 16, dtype=torch.float64))
    assert 0.8 * lipschitz_bound(module) <= norm <= lipschitz_bound(module) * ROUNDING


MAXIMA = [(3, 2, 1, 1), (2, 1, 0, 1), ((3, 2), (2, 1), 1, 1), (5, 2, 0, 1), (3, 2, 0, 2), (3, 2, 1, 3), (2, 3, 0, 1)]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), MAXIMA, ids=str)
def test_overlapping_maxima_reach_the_root_of_the_windows_of_a_pixel(
    kernel: Any, stride: Any, padding: int, dilation: int, ceil_mode: bool
) -> None:
    """A single large pixel is the maximum of every window that reads it."""
    module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode).eval()
    spikes = torch.eye(144, dtype=torch.float64).view(144, 1, 12, 12)
    reached = float(module(spikes).flatten(1).norm(dim=1).max())
    assert lipschitz_bound(module) == pytest.approx(reached, rel=1e-15)
    first, second = noise(50, 2, 12, 12), noise(50, 2, 12, 12)
    moved = (module(first) - module(second)).flatten(1).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
    assert float(moved.max()) <= lipschitz_bound(module)


def test_a_stride_of_none_is_the_kernel_s() -> None:
    maxima, means = nn.MaxPool2d(2).eval(), nn.AvgPool2d(2).eval()
    maxima.stride = means.stride = None  # type: ignore[assignment]
    assert lipschitz_bound(maxima) == 1.0
    assert lipschitz_bound(means) == 0.5


TRANSPOSED = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    for kernel, stride, padding, dilation, groups in product([3, (2, 3)], [1, (2, 1)], [0, 1], [1, 2], [1, 2])
]


@pytest.mark.parametrize("settings", TRANSPOSED, ids=str)
def test_transposed_convolutions_are_bounded_by_their_matrices(settings: dict[str, Any]) -> None:
    layer = nn.ConvTranspose2d(4, 6, **settings).double().eval()
    for scale in (1e-3, 1.0, 1e3):
        with torch.no_grad():
            layer.weight.mul_(scale)
        norm = jacobian_norm(layer, torch.zeros(4, 5, 5, dtype=torch.float64))
        assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


def test_pixels_that_output_padding_adds_are_bounded() -> None:
    for stride, dilation in ((3, 1), (1, 3)):
        layer = nn.ConvTranspose2d(2, 2, 3, stride=stride, dilation=dilation, output_padding=2).double().eval()
        norm = jacobian_norm(layer, torch.zeros(2, 4, 4, dtype=torch.float64))
        assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


def trained_batch_norm(cls: type[nn.Module], **settings: Any) -> Any:
    """Return a layer with statistics and weights that differ from channel to channel, some of them negative."""
    layer: Any = cls(3, **settings).double().eval()
    with torch.no_grad():
        layer.running_mean.copy_(torch.tensor([3.0, -1.0, 0.2]))
        layer.running_var.copy_(torch.tensor([4.0, 1e-4, 9.0]))
        if layer.affine:
            layer.weight.copy_(torch.tensor([1.0, -0.3, 2.0]))
            layer.bias.copy_(torch.tensor([1.0, -5.0, 2.0]))
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("cls", "rest"), [(nn.BatchNorm1d, ()), (nn.BatchNorm2d, (2, 3)), (nn.BatchNorm3d, (2, 2, 1))])
def test_batch_norm_is_bounded_by_its_steepest_channel(
    cls: type[nn.Module], rest: tuple[int, ...], affine: bool
) -> None:
    layer = trained_batch_norm(cls, affine=affine)
    norm = jacobian_norm(layer, noise(3, *rest))
    assert norm == pytest.approx((0.3 if affine else 1.0) / sqrt(1e-4 + 1e-5))
    assert norm <= lipschitz_bound(layer) * ROUNDING
    assert lipschitz_bound(layer) <= norm * ROUNDING


def test_batch_norm_by_the_statistics_of_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="0: BatchNorm2d has no running statistics"):
        lipschitz_bound(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval())


@pytest.mark.parametrize("change", [{"running_var": 0.0}, {"running_var": nan}, {"weight": inf}, {"running_mean": nan}])
def test_batch_norm_without_a_usable_variance_has_no_bound(change: dict[str, float]) -> None:
    layer = trained_batch_norm(nn.BatchNorm2d, eps=0.0)
    for name, value in change.items():
        getattr(layer, name).data[1] = value
    assert lipschitz_bound(layer) == inf


def test_a_negative_sum_of_variance_and_eps_has_no_bound() -> None:
    layer = trained_batch_norm(nn.BatchNorm2d)
    layer.running_var[1] = -1.0
    assert lipschitz_bound(layer) == inf


def test_batch_norm_after_training_steps_is_bounded() -> None:
    layer = nn.BatchNorm2d(2).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(5 * noise(8, 2, 3, 3)) ** 3).mean().backward()
        optimizer.step()
    assert jacobian_norm(layer.eval(), noise(2, 3, 3)) <= lipschitz_bound(layer) * ROUNDING


STALE: dict[str, tuple[nn.Module, str, Any]] = {
    "batch norm": (nn.BatchNorm2d(3), "num_features", 4),
    "PReLU": (nn.PReLU(3), "num_parameters", 1),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 3), "out_channels", 6),
    "its groups": (nn.ConvTranspose2d(4, 4, 3), "groups", 2),
}


@pytest.mark.parametrize("name", STALE)
def test_attributes_that_contradict_the_weight_are_refused(name: str) -> None:
    module, attribute, value = STALE[name]
    setattr(module, attribute, value)
    with pytest.raises(ValueError, match=r"0: .* of shape .*; build the module with the shape of its weight"):
        lipschitz_bound(nn.Sequential(module).eval())


REFUSED: list[tuple[nn.Module, str]] = [
    (nn.Upsample(scale_factor=2), r"scale_factor 2\.0; the rule covers a power of two for each dimension"),
    (nn.Upsample(scale_factor=(3, 3)), "the rule covers a power of two"),
    (nn.Upsample(scale_factor=(2, 2), mode="bilinear"), "mode 'bilinear'"),
    (nn.Upsample(size=(8, 8)), r"size \(8, 8\)"),
    (nn.Softplus(beta=-1.0), "positive and finite beta, got -1.0"),
    (nn.Softplus(threshold=1.0), "threshold from 20 to 700, got 1.0"),
    (nn.Softplus(threshold=1000.0), "threshold from 20 to 700, got 1000.0"),
]


@pytest.mark.parametrize(("module", "message"), REFUSED, ids=str)
def test_a_setting_without_a_rule_is_named(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=rf"0: .*{message}"):
        lipschitz_bound(nn.Sequential(module).eval())


def test_a_padding_with_another_constant_is_refused() -> None:
    module = nn.ZeroPad2d(1).eval()
    module.value = 1.0
    with pytest.raises(ValueError, match="must pad two dimensions with 0"):
        lipschitz_bound(module)


def test_the_jump_of_softplus_at_its_threshold_counts_as_rounding() -> None:
    layer = nn.Softplus().double().eval()
    points = torch.tensor([[20 - 1e-12, 20 + 1e-12, 21.0, -3.0]], dtype=torch.float64)
    error = exact_arithmetic.error(layer, layer(points), points)
    step_error = layer_error(layer, points)
    assert 0.9 * log(1 + exp(-20)) < error <= step_error < 10 * error


def layer_error(layer: nn.Module, points: Tensor) -> float:
    """Return the bound on the rounding of a layer for inputs as large as these points, which follow a linear layer."""
    size = float(points.norm())
    model = nn.Sequential(nn.Linear(1, points.shape[1], bias=False), layer).double().eval()
    with torch.no_grad():
        model[0].weight.fill_(size / sqrt(points.shape[1]))
    return rounding_bounds(model, (1,)).logits


ACTIVATIONS = {**SLOPES, "ELU": nn.ELU, "Sigmoid": nn.Sigmoid, "Softplus": lambda: nn.Softplus(2.0, 40.0)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_rounding_of_activations_is_covered_far_from_zero(name: str) -> None:
    """Each entry on its own, so that no larger one hides its error; exponentials overflow and underflow."""
    layer = ACTIVATIONS[name]().double().eval()
    values = torch.cat([sign * torch.logspace(-300, 3, 61, dtype=torch.float64) for sign in (-1, 1)]).view(-1, 1)
    for point in values:
        computed = layer(point[None])
        signal = Signal((1,), float(point.abs()) * (1 + 1e-15))
        step = step_of("", layer, signal, signal.shape)
        assert exact_arithmetic.error(layer, computed, point[None]) <= step.error
        assert float(computed.abs()) <= step.norm + step.error


class Doubled(nn.Module):
    """A parametrization: twice the weight that is stored."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Random(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.rand_like(weight)


PARAMETRIZED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 5)), (6,)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)), (2, 5, 5)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 5)), (6,)),
    "doubled": (lambda: doubled(nn.Linear(6, 5), "weight"), (6,)),
    "doubled slopes": (lambda: doubled(nn.PReLU(6, init=3.0), "weight"), (6,)),
    "doubled scales": (lambda: doubled(nn.BatchNorm1d(6), "weight"), (6,)),
    "transposed": (lambda: doubled(nn.ConvTranspose2d(2, 3, 3), "weight"), (2, 4, 4)),
}


def doubled(module: nn.Module, name: str) -> nn.Module:
    parametrize.register_parametrization(module, name, Doubled())
    return module


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_a_parametrized_module_is_bounded_by_the_weight_that_it_multiplies_with(name: str) -> None:
    make, shape = PARAMETRIZED[name]
    module = make().double().eval()
    for scale in (1.0, 1e3):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(scale)
        norm = jacobian_norm(module, -noise(*shape).abs())
        taps = 3 if len(shape) > 1 else 1
        assert norm <= lipschitz_bound(nn.Sequential(module).eval()) * ROUNDING <= taps * norm * ROUNDING**3


def test_a_bound_of_a_parametrized_module_leaves_it_as_it_was() -> None:
    module = doubled(nn.Linear(3, 3), "weight").eval()
    before, kind = {name: value.clone() for name, value in module.state_dict().items()}, type(module)
    lipschitz_bound(module)
    assert type(module) is kind
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert module.weight.equal(2 * module.parametrizations.weight.original)


def test_a_parametrization_that_differs_from_call_to_call_is_refused() -> None:
    module = nn.Linear(3, 3)
    parametrize.register_parametrization(module, "weight", Random())
    with pytest.raises(ValueError, match="0: the parametrization of weight computes other values at each call"):
        lipschitz_bound(nn.Sequential(module).eval())


class _OutsideOneDNN(nn.Module):
    """Another weight where oneDNN is off, as it is for certificates."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight if torch.backends.mkldnn.enabled else 100 * weight


def test_a_parametrized_weight_is_the_one_of_the_certified_arithmetic() -> None:
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    plain = lipschitz_bound(layer.eval())
    parametrize.register_parametrization(layer, "weight", _OutsideOneDNN())
    assert lipschitz_bound(layer.eval()) >= 99.999 * plain


class _WithoutGradients(nn.Module):
    """Another weight where gradients are off, as they are for certificates, and on for attacks."""

    def forward(self, weight: Tensor) -> Tensor:
        return 100 * weight if torch.is_grad_enabled() else weight


def test_a_parametrization_that_differs_with_and_without_gradients_is_refused() -> None:
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", _WithoutGradients())
    with pytest.raises(ValueError, match="the parametrization of weight computes other values at each call"):
        lipschitz_bound(layer.eval())


def test_parametrized_modules_without_a_rule_are_refused() -> None:
    for module in (doubled(SOC(2, 2), "weight"), doubled(nn.GroupNorm(2, 2), "weight")):
        with pytest.raises(ValueError, match=r"0 \(Parametrized\w*\) is parametrized.*remove_parametrizations"):
            lipschitz_bound(nn.Sequential(module).eval())


def test_a_subclass_with_another_forward_is_refused_although_it_is_parametrized() -> None:
    class Squared(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    with pytest.raises(ValueError, match="is parametrized"):
        lipschitz_bound(doubled(Squared(3, 3), "weight").eval())


@pytest.mark.parametrize("value", [nan, inf])
def test_parametrized_weights_that_are_not_finite_have_no_bound(value: float) -> None:
    module = doubled(nn.Linear(3, 3), "weight").eval()
    module.parametrizations.weight.original.data[0, 0] = value
    assert lipschitz_bound(module) == inf


@pytest.mark.parametrize("make", [nn.ELU, nn.SiLU], ids=["ELU", "SiLU"])
def test_in_place_activations_are_only_covered_in_chains(make: Callable[..., nn.Module]) -> None:
    assert lipschitz_bound(nn.Sequential(make(inplace=True)).eval()) >= 1
    with pytest.raises(ValueError, match="works in place"):
        lipschitz_bound(Residual(make(inplace=True)).eval())
