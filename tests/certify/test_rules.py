"""Lipschitz bounds of modules against the singular values of their dense Jacobians."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from math import inf, prod, sqrt

import pytest
import torch
from torch import Tensor, nn

from lipnet import layers
from lipnet.certify import lipschitz_bound
from tests.oracles import dense_jacobian, spectral_norm

ROUNDING = 1 + 1e-9


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in float64 and evaluation mode whose initial weights come from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double().eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jacobian_norm(module: nn.Module, point: Tensor) -> float:
    """The largest singular value of the dense Jacobian at a point, an input without its batch dimension."""
    return spectral_norm(dense_jacobian(module, point.unsqueeze(0)))


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("features", "outputs"), [(5, 5), (3, 7), (7, 3), (4, 1)])
def test_linear_is_bounded_by_its_largest_singular_value(features: int, outputs: int, scale: float) -> None:
    layer = seeded(lambda: nn.Linear(features, outputs))
    with torch.no_grad():
        layer.weight.mul_(scale)
    norm = jacobian_norm(layer, torch.zeros(features, dtype=torch.float64))
    assert norm <= lipschitz_bound(layer) <= norm * ROUNDING


CONVOLUTIONS = [
    {"kernel_size": kernel, "stride": stride, "dilation": dilation, "groups": groups, "padding_mode": mode}
    for kernel, stride, dilation, groups, mode in product(
        [(3, 3), (2, 3)], [1, (2, 1)], [1, 2], [1, 2], ["zeros", "circular"]
    )
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_convolution_is_bounded_within_the_root_of_its_taps(settings: dict[str, object]) -> None:
    """The map is large enough for an output to see a whole patch, so no reshaped filter exceeds the norm."""
    padding = [settings["dilation"] * (size - 1) // 2 for size in settings["kernel_size"]]
    layer = seeded(lambda: nn.Conv2d(4, 6, padding=padding, **settings))
    norm = jacobian_norm(layer, torch.zeros(4, 6, 6, dtype=torch.float64))
    bound = lipschitz_bound(layer)
    assert norm <= bound <= sqrt(prod(settings["kernel_size"])) * norm * ROUNDING


def test_the_largest_group_of_a_convolution_counts() -> None:
    layer = seeded(lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3))
    with torch.no_grad():
        layer.weight[2:4].mul_(100)
    norm = jacobian_norm(layer, torch.zeros(6, 6, 6, dtype=torch.float64))
    assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", 0, 1])
def test_convolution_is_bounded_for_each_way_to_state_the_padding(padding: str | int, mode: str) -> None:
    layer = seeded(lambda: nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode))
    norm = jacobian_norm(layer, torch.zeros(2, 5, 5, dtype=torch.float64))
    assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


@pytest.mark.parametrize("padding", [2, 4, (0, 3)])
def test_zeros_around_the_image_may_be_any_number(padding: int | tuple[int, int]) -> None:
    layer = seeded(lambda: nn.Conv2d(2, 3, 3, padding=padding))
    norm = jacobian_norm(layer, torch.zeros(2, 4, 4, dtype=torch.float64))
    assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


@pytest.mark.parametrize(
    ("kernel_size", "padding"), [(1, 2), (3, 2), ((3, 1), (1, 1))], ids=["1x1", "3x3", "one direction"]
)
def test_circular_padding_that_repeats_pixels_is_refused(
    kernel_size: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    layer = seeded(lambda: nn.Conv2d(1, 1, kernel_size, padding=padding, padding_mode="circular"))
    with pytest.raises(ValueError, match=r"Conv2d has .*circular"):
        lipschitz_bound(layer)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("kind", ["rank one", "one channel", "identity"])
def test_convolution_with_a_special_filter_is_bounded(kind: str, scale: float) -> None:
    layer = seeded(lambda: nn.Conv2d(3, 3, 3, padding=1))
    filters = {
        "rank one": torch.ones(3, 3, 3, 3),
        "one channel": torch.zeros(3, 3, 3, 3).index_fill(0, torch.tensor([1]), 1.0),
        "identity": torch.eye(3)[:, :, None, None] * torch.eye(3)[1].outer(torch.eye(3)[1]),
    }
    with torch.no_grad():
        layer.weight.copy_(scale * filters[kind])
    norm = jacobian_norm(layer, torch.zeros(3, 6, 6, dtype=torch.float64))
    assert norm <= lipschitz_bound(layer) <= 3 * norm * ROUNDING


MODULES = {
    "relu": (nn.ReLU, 1.0),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), 1.0),
    "steep leaky relu": (lambda: nn.LeakyReLU(3.0), 3.0),
    "falling leaky relu": (lambda: nn.LeakyReLU(-2.0), 2.0),
    "tanh": (nn.Tanh, 1.0),
    "identity": (nn.Identity, 1.0),
    "dropout": (lambda: nn.Dropout(0.9), 1.0),
    "flatten": (nn.Flatten, 1.0),
    "maximum pool": (lambda: nn.MaxPool2d(2), 1.0),
    "oblong maximum pool": (lambda: nn.MaxPool2d((1, 2)), 1.0),
    "padded maximum pool": (lambda: nn.MaxPool2d(3, padding=1, ceil_mode=True), 1.0),
    "mean pool": (lambda: nn.AvgPool2d(2), 0.5),
    "oblong mean pool": (lambda: nn.AvgPool2d((1, 4)), 0.5),
    "residual": (lambda: layers.Residual(nn.LeakyReLU(3.0)), 2.0),
    "residual that subtracts": (lambda: layers.Residual(nn.LeakyReLU(-1.0), skip=-1.0, branch=0.5), 1.5),
    "average with the mirror image": (lambda: layers.MirrorAverage(nn.LeakyReLU(3.0)), 3.0),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), 1.0),
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), 1.0),
    "channel shuffle": (lambda: nn.ChannelShuffle(2), 1.0),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_without_weights_are_bounded_by_what_their_jacobians_reach(name: str) -> None:
    make, expected = MODULES[name]
    module = seeded(make)
    # The smallest of the scales is where a tanh is as steep as it gets.
    norms = [jacobian_norm(module, scale * noise(4, 4, 4, seed=seed)) for seed in range(3) for scale in (1e-6, 1, 10)]
    assert lipschitz_bound(module) == expected
    assert max(norms) == pytest.approx(expected, rel=1e-9)


def test_sequential_multiplies() -> None:
    parts = [seeded(lambda: nn.Linear(4, 5)), nn.LeakyReLU(3.0).eval(), seeded(lambda: nn.Linear(5, 4), seed=1)]
    model = nn.Sequential(parts[0], nn.Sequential(parts[1], nn.Identity()), parts[2]).eval()
    assert lipschitz_bound(model) == pytest.approx(prod(map(lipschitz_bound, parts)), rel=1e-12)
    assert max(jacobian_norm(model, noise(4, seed=seed)) for seed in range(10)) <= lipschitz_bound(model)


def test_a_module_that_runs_twice_counts_twice() -> None:
    layer = seeded(lambda: nn.Linear(4, 4))
    model = nn.Sequential(layer, nn.Identity(), layer).eval()
    with torch.no_grad():
        layer.weight.copy_(3 * torch.eye(4))
    assert jacobian_norm(model, noise(4)) == pytest.approx(9)
    assert lipschitz_bound(model) == pytest.approx(9)


def test_an_empty_sequential_is_the_identity() -> None:
    assert lipschitz_bound(nn.Sequential().eval()) == 1.0


def test_lipconvnet_is_bounded_near_what_its_jacobians_reach(
    trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    bound = lipschitz_bound(trained_model)
    assert bound == trained_model.lipschitz_bound()
    norms = [jacobian_norm(trained_model, image) for image in digits[0][:5]]
    assert 0.5 * bound < max(norms) <= bound


class Halved(layers.LipschitzModule):
    """x / 2, around a layer that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def lipschitz_bound(self) -> float:
        return 0.5


class Residual(nn.Sequential):
    """Sequential with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class BoundedResidual(layers.LipschitzModule, Residual):
    def lipschitz_bound(self) -> float:
        return 2.0


class SquaredLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def test_a_module_that_knows_its_bound_is_asked() -> None:
    model = nn.Sequential(nn.LeakyReLU(3.0), nn.Sequential(Halved(), BoundedResidual(nn.ReLU()))).eval()
    assert lipschitz_bound(model) == 3.0


@pytest.mark.parametrize(
    "module",
    [nn.GroupNorm(3, 3), nn.Softmax(dim=1), Residual(nn.ReLU()), SquaredLinear(3, 3), nn.AvgPool1d(2)],
    ids=str,
)
def test_a_module_without_a_rule_is_named(module: nn.Module) -> None:
    model = nn.Sequential(OrderedDict(features=nn.Sequential(nn.ReLU(), module), head=nn.Flatten())).eval()
    with pytest.raises(TypeError, match=rf"features\.1 \({type(module).__name__}\) has no rule"):
        lipschitz_bound(model)


def test_a_residual_block_is_bounded_by_what_it_holds() -> None:
    """Compare with the Jacobian, also nested; an error names the path of a module without a rule."""
    body = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), layers.Residual(nn.Conv2d(2, 2, 1), skip=1.0, branch=1.0))
    block = layers.Residual(body, skip=0.25, branch=0.5).double().eval()
    norm = jacobian_norm(block, torch.zeros(2, 4, 4, dtype=torch.float64))
    inner = lipschitz_bound(body[0]) * (1 + lipschitz_bound(body[1].body))
    assert norm <= lipschitz_bound(block) <= (0.25 + 0.5 * inner) * ROUNDING
    with pytest.raises(TypeError, match=r"0\.body\.1 \(Mish\) has no rule"):
        lipschitz_bound(nn.Sequential(layers.Residual(nn.Sequential(nn.ReLU(), nn.Mish()))).eval())


def test_the_mean_of_all_pixels_shrinks() -> None:
    assert lipschitz_bound(nn.AdaptiveAvgPool2d(1).eval()) == 1.0
    assert jacobian_norm(nn.AdaptiveAvgPool2d(1).eval(), torch.zeros(2, 4, 4, dtype=torch.float64)) <= 1


def test_a_single_module_without_a_rule_is_the_model() -> None:
    with pytest.raises(TypeError, match=r"the model \(Mish\) has no rule"):
        lipschitz_bound(nn.Mish().eval())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.MaxPool2d(2, return_indices=True), "returns indices"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), "padding that does not count"),
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(2, divisor_override=1), "divisor_override"),
        (nn.AdaptiveAvgPool2d(2), "covers an output of 1 x 1"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "padding_mode 'reflect'.*'zeros' and 'circular'"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate"), "padding_mode 'replicate'"),
    ],
    ids=str,
)
def test_a_setting_without_a_rule_is_named(module: nn.Module, message: str) -> None:
    model = nn.Sequential(OrderedDict(features=nn.Sequential(nn.ReLU(), module))).eval()
    with pytest.raises(ValueError, match=rf"features\.1: .*{message}"):
        lipschitz_bound(model)


def test_training_mode_is_refused_wherever_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Dropout())).eval()
    model[1][0].train()
    with pytest.raises(ValueError, match=r"1\.0 \(Dropout\) is in training mode"):
        lipschitz_bound(model)
    with pytest.raises(ValueError, match=r"the model \(Sequential\) is in training mode"):
        lipschitz_bound(model.train())


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_refused(kind: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(3, 3))).eval()
    handle = getattr(model[0][1], kind)(lambda *arguments: None)
    with pytest.raises(ValueError, match=r"0\.1 \(Linear\) has forward hooks"):
        lipschitz_bound(model)
    handle.remove()
    assert lipschitz_bound(model) > 0


@pytest.mark.parametrize("value", [float("nan"), inf, -inf])
@pytest.mark.parametrize("make", [lambda: nn.Linear(3, 3), lambda: nn.Conv2d(3, 3, 3)], ids=["linear", "convolution"])
def test_weights_that_are_not_finite_have_no_bound(make: Callable[[], nn.Module], value: float) -> None:
    layer = seeded(make)
    with torch.no_grad():
        layer.weight.view(-1)[4] = value
    model = nn.Sequential(layer, seeded(lambda: nn.Linear(3, 2))).eval()
    assert lipschitz_bound(model) == inf


def test_a_lipconvnet_with_weights_that_are_not_finite_has_no_bound(tiny_model: nn.Module) -> None:
    with torch.no_grad():
        next(tiny_model.parameters()).view(-1)[0] = float("nan")
    assert lipschitz_bound(tiny_model) == inf
