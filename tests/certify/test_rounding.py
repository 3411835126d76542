"""The bound on the rounding of logits: at least the error found with 300 bits, not absurdly more, and never missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf, nan, pi, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lipnet.certify import (
    LogitBounds,
    RoundingBounds,
    explicit_arithmetic,
    lipschitz_bound,
    logit_bounds,
    rounding_bounds,
)
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers import (
    GSSOC,
    SOC,
    Centering,
    ChannelShuffle,
    Householder,
    HouseholderOrder2,
    LipschitzModule,
    LiRes,
    MaxMin,
    MaxMinPermuted,
    MirrorAverage,
    Normalize,
    NormalizedLinear,
    NormPool2d,
    OrthogonalMixing,
    PatchEmbedding,
    Residual,
    ScaledConv2d,
    SOC1d,
    SOCLinear,
    SOCTranspose,
    SpatialMixing,
)
from lipnet.models import LipConvNet
from lipnet.models.lipnext import LipNeXtBlock
from lipnet.structured import OrthogonalMap, boft, gsoft
from tests import exact_arithmetic
from tests.settings import PATHS, PUBLISHED

# Largest ratio of a bound to a measured error: gamma_n grows like n, measured errors at most like the root of n.
ABSURD = 1e6


def rotation(make: Callable[..., Any], features: int, **settings: int) -> OrthogonalMap:
    matrix = make(features, **settings, dtype=torch.float64)
    nn.init.normal_(matrix.generators)
    return OrthogonalMap(matrix)


def with_angles(layer: nn.Module) -> nn.Module:
    nn.init.uniform_(layer.theta, 0.1, 6.0)
    with torch.no_grad():
        layer.theta[0] *= -3
    return layer


def measured(model: nn.Module, images: Tensor) -> float:
    with torch.no_grad(), explicit_arithmetic(model):
        return exact_arithmetic.error(model, model(images), images)


def images(count: int, *shape: int) -> Tensor:
    """Return random images, and one of zeros and ones, the worst case in the box."""
    random = torch.rand(count, *shape, dtype=torch.float64)
    return torch.cat([random, (random[:1] > 0.5).double()])


def assert_covered(model: nn.Module, x: Tensor) -> None:
    model = model.double().eval()
    bound, error = rounding_bounds(model, tuple(x.shape[1:])).logits, measured(model, x)
    assert error <= bound < inf
    assert bound <= ABSURD * max(error, 1e-17 * float(x.norm()))


def with_statistics(layer: nn.BatchNorm2d, variance: float = 1.0) -> nn.Module:
    nn.init.normal_(layer.running_mean, std=3.0)
    nn.init.uniform_(layer.running_var, 0.1 * variance, 2 * variance)
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return layer


def wide_linear(outputs: int) -> nn.Module:
    """Return a layer whose results are spread over many sizes of both signs, at most about 30."""
    layer = nn.Linear(4, outputs)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-6, 1.3, outputs)[:, None])
    return layer


def _centred() -> Centering:
    layer = Centering(3)
    layer(torch.rand(4, 3, 5, 5))
    return layer


def _rotated() -> PatchEmbedding:
    layer = PatchEmbedding(2, 2, 10, rotation=True)
    layer.fit(torch.rand(30, 2, 4, 4))
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        f"SOC {engine} {mode}": (partial(SOC, 4, 4, engine=engine, padding_mode=mode), (4, 4, 3))
        for mode, engine in PATHS
    },
    "SOC wide": (lambda: SOC(2, 6, stride=2, groups=2, engine="series"), (2, 6, 4)),
    "SOC narrow": (lambda: SOC(6, 3, engine="series", bias=False), (6, 3, 4)),
    "SOC published": (lambda: SOC(4, 4, engine="series", **PUBLISHED), (4, 4, 4)),
    "SOC 5 x 5": (lambda: SOC(2, 2, (5, 3), engine="series"), (2, 6, 4)),
    "SOC 2 x 2 maps": (lambda: SOC(4, 6, engine="series"), (4, 2, 2)),
    "SOC one pixel": (lambda: SOC(4, 6, engine="series"), (4, 1, 1)),
    "SOC 1 x 1": (lambda: SOC(6, 4, 1, groups=2), (6, 3, 2)),
    "SOC 1 x 1 series": (lambda: SOC(6, 4, 1, engine="series"), (6, 2, 2)),
    "SOC many terms": (lambda: SOC(4, 4, engine="series", series="taylor", eval_terms=20), (4, 3, 3)),
    "SOC1d": (lambda: SOC1d(2, 4, 5, stride=2, engine="series"), (2, 12)),
    "SOCLinear": (lambda: SOCLinear(12, 5), (12,)),
    "SOCLinear series": (lambda: SOCLinear(12, 5, engine="series"), (12,)),
    "SOCTranspose": (lambda: SOCTranspose(8, 2, stride=2, engine="series"), (8, 3, 2)),
    "SOCTranspose 2 x 2 maps": (lambda: SOCTranspose(8, 2, stride=2, engine="series"), (8, 2, 2)),
    "SOCTranspose dense": (lambda: SOCTranspose(4, 6, padding_mode="circular"), (4, 3, 3)),
    "inverse of SOC": (lambda: SOCTranspose.inverse_of(SOC(2, 8, stride=2, engine="series")), (8, 3, 3)),
    "GSSOC": (lambda: GSSOC(8, 8, groups=(2, 4)), (8, 3, 3)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4, 4)),
    "Conv2d stride": (lambda: nn.Conv2d(3, 4, (3, 2), stride=2, bias=False), (3, 5, 6)),
    "Linear": (lambda: nn.Linear(20, 7), (20,)),
    "Linear bias free": (lambda: nn.Linear(20, 7, bias=False), (20,)),
    "NormalizedLinear": (lambda: NormalizedLinear(20, 7), (20,)),
    "Normalize": (lambda: Normalize([0.3, 0.5], 0.21), (2, 4, 4)),
    "Normalize twice": (lambda: nn.Sequential(Normalize([0.3], 0.21), Normalize([5.0], 0.1)), (1, 4, 4)),
    "ScaledConv2d": (lambda: ScaledConv2d(2, 4, 5, 2, groups=2), (2, 6, 6)),
    "LiRes": (lambda: LiRes(4, 4, padding_mode="circular", size=4), (4, 4, 4)),
    "OrthogonalMixing": (lambda: OrthogonalMixing(6), (6, 3, 3)),
    "OrthogonalMixing groups": (lambda: OrthogonalMixing(12, 3, parametrization="manifold"), (12, 2, 2)),
    "SpatialMixing": (lambda: SpatialMixing(8, 2, share=0.25), (8, 3, 3)),
    "LipNeXt block": (lambda: LipNeXtBlock(8, 3, share=0.25), (8, 3, 3)),
    "Centering": (_centred, (3, 4, 4)),
    "PatchEmbedding": (_rotated, (2, 4, 4)),
    "NormPool2d": (lambda: NormPool2d(2), (3, 4, 4)),
    "MaxMin": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), MaxMin()), (2, 5, 5)),
    "MaxMinPermuted": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), MaxMinPermuted()), (2, 5, 5)),
    "Householder": (lambda: with_angles(Householder(6)), (6, 4, 4)),
    "Householder neighbours": (lambda: with_angles(Householder(6, neighbours=True)), (6, 4, 4)),
    "HouseholderOrder2": (lambda: with_angles(HouseholderOrder2(6)), (6, 3, 3)),
    "HouseholderOrder2 neighbours": (lambda: with_angles(HouseholderOrder2(6, neighbours=True)), (6, 3, 3)),
    "gsoft": (lambda: rotation(gsoft, 12, block_size=3), (12, 2, 2)),
    "boft": (lambda: rotation(boft, 16, block_size=4, factors=3), (16, 2, 2)),
    "ChannelShuffle": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), ChannelShuffle(2, paired=True)), (2, 2, 2)),
    "LeakyReLU": (lambda: nn.Sequential(nn.Linear(4, 9), nn.LeakyReLU(0.3)), (4,)),
    "steep LeakyReLU": (lambda: nn.Sequential(nn.Linear(4, 9), nn.LeakyReLU(-3.7)), (4,)),
    "ReLU": (lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU()), (4,)),
    "Tanh": (lambda: nn.Tanh(), (200,)),
    "AvgPool2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.AvgPool2d((2, 3))), (2, 4, 6)),
    "AdaptiveAvgPool2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1)), (2, 3, 5)),
    "Residual": (lambda: Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), MaxMin()), skip=0.3), (2, 4, 4)),
    "Residual in another": (
        lambda: nn.Sequential(nn.Linear(6, 6), Residual(Residual(nn.Linear(6, 6), branch=-1.7), skip=0.1)),
        (6,),
    ),
    "MirrorAverage": (lambda: MirrorAverage(nn.Sequential(nn.Conv2d(2, 4, 3), MaxMin())), (2, 4, 5)),
    "MirrorAverage of exact results": (lambda: MirrorAverage(nn.ReLU()), (2, 4, 5)),
    "MaxPool2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(2)), (2, 4, 4)),
    "MaxPool2d overlapping": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, 2, 1)), (2, 6, 6)),
    "AvgPool2d overlapping": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.AvgPool2d((3, 2), (2, 1), 1)), (2, 6, 5)),
    "BatchNorm2d": (lambda: with_statistics(nn.BatchNorm2d(3)), (3, 4, 4)),
    "BatchNorm2d plain": (lambda: with_statistics(nn.BatchNorm2d(3, affine=False)), (3, 4, 4)),
    "BatchNorm1d": (lambda: with_statistics(nn.BatchNorm1d(30)), (30,)),
    "BatchNorm2d small variance": (lambda: with_statistics(nn.BatchNorm2d(3, eps=0.0), 1e-30), (3, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2, output_padding=1), (4, 3, 3)),
    "ConvTranspose2d dilated": (lambda: nn.ConvTranspose2d(2, 3, (3, 2), padding=1, dilation=2), (2, 4, 4)),
    "ZeroPad2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.ZeroPad2d((1, 0, 2, 1))), (2, 3, 3)),
    "Upsample": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1), nn.Upsample(scale_factor=(2, 4))), (2, 3, 3)),
    "PReLU": (lambda: nn.Sequential(wide_linear(40), nn.PReLU(40, init=-3.3)), (4,)),
    "ELU": (lambda: nn.Sequential(wide_linear(40), nn.ELU(1.7)), (4,)),
    "GELU": (lambda: nn.Sequential(wide_linear(80), nn.GELU()), (4,)),
    "GELU by tanh": (lambda: nn.Sequential(wide_linear(80), nn.GELU(approximate="tanh")), (4,)),
    "SiLU": (lambda: nn.Sequential(wide_linear(80), nn.SiLU()), (4,)),
    "Sigmoid": (lambda: nn.Sequential(wide_linear(80), nn.Sigmoid()), (4,)),
    "Softplus": (lambda: nn.Sequential(wide_linear(80), nn.Softplus(1.3, threshold=45)), (4,)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3, groups=2)), (4, 4, 4)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(20, 7)), (20,)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(20, 7)), (20,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_error_of_each_layer_is_covered(name: str) -> None:
    make, shape = LAYERS[name]
    assert_covered(make(), images(2, *shape))


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1e3, 1e100])
@pytest.mark.parametrize("name", ["SOC series zeros", "SOC dense circular", "Conv2d", "Linear", "SOCLinear series"])
def test_the_error_of_large_and_small_weights_is_covered(name: str, scale: float) -> None:
    make, shape = LAYERS[name]
    layer = make().double()
    with torch.no_grad():
        layer.weight.mul_(scale)
    assert_covered(layer, images(2, *shape))


@pytest.mark.parametrize("kind", ["subnormal", "zero"])
def test_weights_that_underflow_are_covered(kind: str) -> None:
    layer = nn.Linear(30, 5).double()
    with torch.no_grad():
        layer.weight.mul_(1e-310 if kind == "subnormal" else 0.0)
        layer.bias.zero_()
    model, x = layer.eval(), images(3, 30)
    assert measured(model, x) <= rounding_bounds(model, (30,)).logits < 1e-290


def small_network(**settings: Any) -> nn.Module:
    options = {"conv": partial(GSSOC, groups=(2, None)), "activation": MaxMinPermuted, "mean": [0.4], "std": 0.3}
    return LipConvNet(4, depth=2, stages=2, initial_channels=4, in_channels=1, image_size=8, **{**options, **settings})


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "GS-SOC": small_network,
    "normalised head": partial(small_network, head=NormalizedLinear),
    "linear head": partial(small_network, head=nn.Linear, activation=MaxMin),
    "circular": partial(small_network, conv=partial(SOC, padding_mode="circular", engine="spectral")),
    "Householder": partial(small_network, activation=partial(Householder, neighbours=True)),
    "pooling": partial(small_network, pooling=NormPool2d),
}


@pytest.mark.cover(0)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_of_a_network_is_covered(name: str) -> None:
    assert_covered(NETWORKS[name](), images(1, 1, 8, 8))


def test_the_error_of_each_difference_of_logits_is_covered() -> None:
    model, x = small_network(head=NormalizedLinear).double().eval(), images(2, 1, 8, 8)
    bounds = rounding_bounds(model, (1, 8, 8))
    assert bounds.pairwise is not None
    with torch.no_grad(), explicit_arithmetic(model):
        logits = model(x)
    for sample, computed in zip(x, logits, strict=True):
        true = exact_arithmetic.evaluate(model, exact_arithmetic.exact(sample))
        errors = torch.tensor((exact_arithmetic.exact(computed) - true).astype(float))
        assert ((errors[:, None] - errors).abs() <= bounds.pairwise).all()
    apart = ~torch.eye(4, dtype=torch.bool)
    assert (bounds.pairwise[apart] < 4 * sqrt(2) * bounds.logits).all()


def test_the_cost_of_a_radius_is_the_largest_of_all_pairs_of_logits() -> None:
    bounds = torch.tensor([[0.0, 2.0, 4.0], [2.0, 0.0, 8.0], [4.0, 8.0, 0.0]], dtype=torch.float64)
    errors = torch.tensor([[9.0, 1.0, 3.0], [1.0, 9.0, 2.0], [3.0, 2.0, 9.0]], dtype=torch.float64)
    rounding = RoundingBounds(1.0, errors, ())
    assert rounding.radius_cost(LogitBounds(1.0, bounds)) == 1.5
    assert rounding.radius_cost(LogitBounds(4.0)) == 0.5


def test_the_shares_of_the_modules_are_the_whole() -> None:
    model = small_network().double().eval()
    bounds = rounding_bounds(model, (1, 8, 8))
    shares = [module.contribution for module in bounds.modules]
    assert bounds.logits == pytest.approx(sum(shares), rel=3e-6)
    names = [module.path for module in bounds.modules]
    assert names[:3] == ["normalize", "stage1.0.shuffle", "stage1.0.spatial"]
    assert all(
        (share > 0) == ("spatial" in name or name in ("normalize", "head"))
        for share, name in zip(shares, names, strict=True)
    )


@pytest.mark.slow
def test_the_sectors_of_householder_activations_are_covered_at_their_borders() -> None:
    """Points on, beside and opposite to the rays, where one rounding decides the sector."""
    angles = torch.tensor(
        [0.0, 1.1e-9, 0.3, pi / 2, pi, 4.0, 2 * pi - 1e-3, 2 * pi - 1.1e-9, 2 * pi, 7.0], dtype=torch.float64
    )
    first = angles
    second = first[first < 2 * pi - 1e-9]
    starts = torch.tensor([0.0, 0.1, -3.0, 100.0]).double()
    theta = torch.cartesian_prod(starts, first, second).T
    layer = HouseholderOrder2(2 * theta.shape[1], dtype=torch.float64)
    with torch.no_grad():
        layer.theta.copy_(theta)
    start, a, b = theta[0], theta[1].clamp(0, 2 * pi), theta[2].clamp(0, 2 * pi)
    rays = torch.stack([start, start + a, start + a + b, start + b + 2 * pi]) / 2
    steps = torch.tensor([-1e-15, -1e-16, 0.0, 1e-16, 1e-15]).double()
    phi = (
        (rays[..., None] + steps + torch.tensor([0.0, pi]).double()[:, None, None, None]).permute(2, 0, 1, 3).flatten(1)
    )
    points = torch.cat([phi.cos(), phi.sin()]).view(1, 2 * theta.shape[1], -1)
    signal = Signal(tuple(points.shape[1:]), norm=1.0)
    with torch.no_grad():
        computed = layer(points)
    # A pair of channels at a time, against what its own points allow.
    true = exact_arithmetic.evaluate(layer, exact_arithmetic.exact(points[0]))
    errors = torch.tensor((exact_arithmetic.exact(computed[0]) - true).astype(float))
    assert float(errors.view(2, -1).norm(dim=0).max()) <= layer.eval().rounding_step(signal, ()).error < 1e-11


@pytest.mark.parametrize("theta", [(0.0, 1e-10, 1.0), (0.0, 1.0, 1e-12), (0.0, 1.0, 6.2831853071795), (0.0, 1.0, 9.0)])
def test_sectors_whose_borders_cannot_be_told_apart_are_refused(theta: tuple[float, ...]) -> None:
    layer = HouseholderOrder2(2, dtype=torch.float64).eval()
    with torch.no_grad():
        layer.theta.copy_(torch.tensor(theta).view(3, 1))
    model = nn.Sequential(nn.Identity(), layer).eval()
    with pytest.raises(ValueError, match=r"1 \(HouseholderOrder2\).*borders has no bound"):
        rounding_bounds(model, (2, 3, 3))


class Silent(LipschitzModule):
    """Layer with a Lipschitz bound but no rounding bound."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 3

    def lipschitz_bound(self) -> float:
        return 1 / 3


class Shouting(Silent):
    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)._replace(error=float(len(shape)))


def test_maps_without_channels_are_averaged_over_all_their_pixels() -> None:
    """Flatten(1, 2) leaves a map (C H, W) of an image. Its mean has the same number of summands as of (1, C H, W)."""
    flat = rounding_bounds(nn.Sequential(nn.Flatten(1, 2), nn.AdaptiveAvgPool2d(1)).eval(), (3, 40, 2))
    whole = rounding_bounds(nn.Sequential(nn.AdaptiveAvgPool2d(1)).eval(), (1, 120, 2))
    assert flat.modules[1].step.error == pytest.approx(whole.modules[0].step.error, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("maxima", "size"),
    [
        (nn.MaxPool2d(2, stride=1, padding=1, dilation=2), (1, 1)),
        (nn.MaxPool2d((2, 1), stride=1, padding=(1, 0), dilation=(4, 1)), (3, 5)),
        (nn.MaxPool2d(3, stride=5, padding=1, dilation=3, ceil_mode=True), (2, 2)),
    ],
    ids=["both directions", "rows", "ceil"],
)
def test_maxima_of_padding_alone_are_refused(maxima: nn.MaxPool2d, size: tuple[int, int]) -> None:
    """They are -infinity, which a Tanh turns into -1: no bound on the norm of the input counts that."""
    assert bool((maxima(torch.ones(1, 1, *size)) == -torch.inf).all())
    problem = rf"0 \(MaxPool2d\).*windows of padding alone on maps of {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=problem):
        rounding_bounds(nn.Sequential(maxima, nn.Tanh()).eval(), (1, *size))


def test_dilated_maxima_with_a_pixel_in_each_window_are_exact() -> None:
    maxima = nn.MaxPool2d(2, stride=1, padding=1, dilation=2)
    assert bool(maxima(torch.rand(1, 1, 2, 3)).isfinite().all())
    assert rounding_bounds(nn.Sequential(maxima).eval(), (1, 2, 3)).logits < 1e-300


def scaled(module: nn.Module, factor: float) -> nn.Sequential:
    """The module between products with a factor and with its inverse, which have no effect unless values overflow."""
    # A single weight of this size has no bound itself.
    factors = [factor ** (1 / 4)] * 4
    before, after = ([nn.Conv2d(1, 1, 1, bias=False, dtype=torch.float64) for _ in factors] for _ in range(2))
    for first, last, each in zip(before, after, factors, strict=True):
        nn.init.constant_(first.weight, each)
        nn.init.constant_(last.weight, 1 / each)
    return nn.Sequential(*before, module, *after).eval()


@pytest.mark.parametrize(
    ("module", "factor", "size"),
    [
        (NormPool2d(2), 1e155, 2),
        (MirrorAverage(nn.Identity()), 1e308, 1),
        (nn.AvgPool2d(2), 8e307, 2),
        (nn.AdaptiveAvgPool2d(1), 8e307, 2),
    ],
    ids=["norms", "mirror images", "averages", "adaptive averages"],
)
def test_values_whose_squares_or_sums_overflow_have_no_bound(module: nn.Module, factor: float, size: int) -> None:
    model, shape = scaled(module, factor), (1, size, size)
    with torch.no_grad():
        assert not bool(model(torch.ones(1, *shape, dtype=torch.float64)).isfinite().all()), "the case must overflow"
    assert rounding_bounds(model, shape).logits == inf
    assert rounding_bounds(scaled(module, 1e140), shape).logits < 1e-12


def test_a_module_without_a_rule_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.ReLU(), Silent())).eval()
    assert lipschitz_bound(model) == 1 / 3
    with pytest.raises(TypeError, match=r"1\.1 \(Silent\) has no rule for its rounding.*rounding_step"):
        rounding_bounds(model, (2, 3, 3))


def test_a_module_of_ones_own_takes_part() -> None:
    assert rounding_bounds(nn.Sequential(nn.Flatten(), Shouting()).eval(), (2, 3, 3)).logits == pytest.approx(
        1.0, rel=3e-6
    )


def test_other_dtypes_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4).double(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"must be float64, .* got 2\.weight in torch\.float32.*model\.double"):
        rounding_bounds(model, (1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["buffer", "attribute"])
def test_other_tensors_in_other_dtypes_are_refused(kind: str, dtype: torch.dtype) -> None:
    """Sectors whose borders are computed in float32 leave jumps far larger than the rounding of float64."""
    activation = HouseholderOrder2(2).double()
    angles = activation.theta.detach().to(dtype)
    del activation.theta
    if kind == "buffer":
        activation.register_buffer("theta", angles)
    else:
        activation.theta = angles
    model = nn.Sequential(nn.Sequential(activation), nn.Flatten()).eval()
    with pytest.raises(ValueError, match=rf"must be float64, .* got 0\.0\.theta in {dtype}"):
        rounding_bounds(model, (2, 1, 1))


def test_results_in_other_dtypes_are_refused() -> None:
    class Rounded(LipschitzModule):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

        def lipschitz_bound(self) -> float:
            return 1.0

    with pytest.raises(ValueError, match=r"1 \(Rounded\) must return torch\.float64, .* got torch\.float32"):
        rounding_bounds(nn.Sequential(nn.Flatten(), Rounded()).eval(), (1, 2, 2))


def test_constants_in_float32_are_exact() -> None:
    """Conversion to float64 does not round."""
    model = nn.Sequential(Normalize([0.3], 0.21), nn.Flatten(), nn.Linear(4, 3).double()).eval()
    assert model[0].mean.dtype == torch.float32
    x = images(2, 1, 2, 2)
    assert 0 < measured(model, x) <= rounding_bounds(model, (1, 2, 2)).logits


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="in training mode"):
        rounding_bounds(nn.Flatten(), (1, 2, 2))


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 3), lambda: SOCLinear(4, 3), lambda: NormalizedLinear(4, 3)])
def test_weights_that_are_not_finite_have_no_bound(make: Callable[[], nn.Module], value: float) -> None:
    model = nn.Sequential(nn.Flatten(), make()).double().eval()
    with torch.no_grad():
        model[1].weight.view(-1)[1] = value
    assert rounding_bounds(model, (1, 2, 2)).logits == inf


def test_the_explicit_path_has_the_bound_and_is_the_network_up_to_rounding() -> None:
    """With zero padding, polynomials and matrices are the same; only the order of sums differs."""
    model, x = small_network(conv=partial(SOC, engine="series")).double().eval(), images(3, 1, 8, 8)
    with torch.no_grad():
        fast = model(x)
        with explicit_arithmetic(model):
            explicit = model(x)
        again = model(x)
    assert fast.equal(again), "the context must leave the model as it was"
    assert float((fast - explicit).norm(dim=1).max()) <= 2 * rounding_bounds(model, (1, 8, 8)).logits
    assert logit_bounds(model).lipschitz == lipschitz_bound(model)


def test_operands_are_the_same_at_every_call() -> None:
    """Operands that each call recomputes from the weights must be the same in every call."""
    head, activation, matrix = (
        NormalizedLinear(30, 9),
        with_angles(HouseholderOrder2(8)),
        rotation(gsoft, 12, block_size=3),
    )
    for module, x in (
        (head, torch.randn(3, 30)),
        (activation, torch.randn(3, 8, 5, 5)),
        (matrix, torch.randn(3, 12, 4)),
    ):
        module, x = module.double().eval(), x.double()
        first = module(x)
        assert all(module(x).equal(first) for _ in range(5))
