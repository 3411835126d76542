"""GSSOC against the product of its four matrices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.layers import GSSOC, SOC, ChannelShuffle
from tests.oracles import (
    Matrix,
    both,
    channel_matrix,
    dense_jacobian,
    permutation_matrix,
    shuffle_places,
    skew_orthogonal_matrix,
    spectral_norm,
    truncation_error,
)
from tests.settings import PUBLISHED, hold_the_vectors

SIZE = (4, 6)


def shuffle_matrix(channels: int, groups: int, paired: bool, pixels: int) -> Matrix:
    return channel_matrix(permutation_matrix(shuffle_places(channels, groups, paired)), pixels)


def product_of_four(layer: GSSOC, groups: tuple[int, int | None], paired: bool) -> Matrix:
    """SOC_b^{1x1} shuffle_b SOC_a shuffle_a, on maps of SIZE."""
    spatial, second = layer.spatial, groups[1]
    channels_in, channels_out, stride = spatial.in_channels, spatial.out_channels, spatial.stride
    structure = {"stride": stride, "groups": groups[0], "padding_mode": spatial.padding_mode}
    first = skew_orthogonal_matrix(spatial.filter(), channels_in, channels_out, SIZE, **structure)
    matrix = first @ shuffle_matrix(channels_in, groups[0], paired, SIZE[0] * SIZE[1])
    if second is None:
        return matrix
    down, across = both(stride)
    size = (SIZE[0] // down, SIZE[1] // across)
    pointwise = skew_orthogonal_matrix(layer.pointwise.filter(), channels_out, channels_out, size, groups=second)
    return pointwise @ shuffle_matrix(channels_out, second, paired, size[0] * size[1]) @ matrix


@pytest.mark.cover(0)
@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["default", "published"])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("groups", [(2, None), (2, 1), (2, 2), (4, 2), (1, 4), (1, None)])
@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        ((8, 8), {}),
        ((8, 16), {"kernel_size": (3, 1)}),
        ((16, 8), {"padding_mode": "circular"}),
        ((8, 8), {"kernel_size": 1}),
        ((8, 16), {"stride": 2}),
        ((8, 16), {"stride": (1, 2)}),
    ],
)
def test_jacobian_is_the_product_of_its_four_matrices(
    channels: tuple[int, int],
    settings: dict[str, Any],
    groups: tuple[int, int | None],
    paired: bool,
    options: dict[str, Any],
) -> None:
    layer = GSSOC(*channels, groups=groups, paired=paired, dtype=torch.float64, **settings, **options).eval()
    jacobian = dense_jacobian(layer, torch.randn(1, channels[0], *SIZE, dtype=torch.float64))
    error = 2 * (truncation_error(2.1, 12) if options else layer.spatial.eval_tolerance)
    assert spectral_norm(jacobian - product_of_four(layer, groups, paired)) <= error
    singular_values = np.linalg.svd(jacobian, compute_uv=False)
    assert 1 - error <= singular_values.min()
    assert singular_values.max() <= layer.lipschitz_bound() * (1 + 1e-13)
    assert layer.lipschitz_bound() == 1.0


def test_groups_of_one_without_a_second_are_a_soc() -> None:
    layer = GSSOC(4, 6, groups=(1, None), dtype=torch.float64).eval()
    plain = SOC(4, 6, dtype=torch.float64).eval()
    plain.load_state_dict(layer.spatial.state_dict())
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(layer(x), plain(x))


def test_a_shuffle_makes_all_channels_see_each_other() -> None:
    layer = GSSOC(16, 16, kernel_size=1, groups=(4, 4), paired=False, dtype=torch.float64).eval()
    jacobian = dense_jacobian(layer, torch.randn(1, 16, 1, 1, dtype=torch.float64))
    assert np.abs(jacobian).min() > 1e-6
    alone = dense_jacobian(layer.spatial, torch.randn(1, 16, 1, 1, dtype=torch.float64))
    assert (alone == 0).mean() == 0.75


@pytest.mark.parametrize("paired", [True, False])
def test_channels_of_images_are_not_shuffled(paired: bool) -> None:
    layer = GSSOC(3, 16, groups=(4, 2), paired=paired, dtype=torch.float64).eval()
    assert isinstance(layer.shuffle, nn.Identity)
    assert isinstance(layer.second_shuffle, ChannelShuffle)
    expected = layer.pointwise(layer.second_shuffle(layer.spatial(x := torch.randn(2, 3, 4, 4, dtype=torch.float64))))
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("groups", [(4, None), (4, 2)])
def test_an_unbatched_input_equals_a_batch_of_one(groups: tuple[int, int | None]) -> None:
    layer = GSSOC(8, 16, stride=2, groups=groups).eval()
    x = torch.randn(8, 4, 4)
    assert torch.equal(layer(x), layer(x[None])[0])


def test_an_empty_batch_stays_empty() -> None:
    assert GSSOC(8, 16, stride=2, groups=(4, 2))(torch.zeros(0, 8, 4, 4)).shape == (0, 16, 2, 2)


@pytest.mark.parametrize("training", [True, False])
def test_the_bound_holds_after_optimisation_steps(training: bool) -> None:
    layer = GSSOC(8, 8, groups=(2, 4), dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    target = 100 * torch.randn_like(x)
    for _ in range(4):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
        bound = layer.train(training).lipschitz_bound()
        assert spectral_norm(dense_jacobian(layer, x[:1])) <= bound * (1 + 1e-13) < 10
        layer.train()


def test_the_bound_is_the_product_of_both_convolutions() -> None:
    """Five Taylor terms are not a contraction in either convolution."""
    layer = GSSOC(4, 4, groups=(2, 2), engine="series", **{**PUBLISHED, "eval_terms": 5}, dtype=torch.float64).eval()
    parts = [layer.spatial.lipschitz_bound(), layer.pointwise.lipschitz_bound()]
    assert min(parts) > 1 + 1e-6
    assert layer.lipschitz_bound() == pytest.approx(parts[0] * parts[1], rel=1e-15)
    assert layer.lipschitz_bound() > max(parts)


@pytest.mark.parametrize("engine", ["series", "dense"])
def test_gradients_in_evaluation(engine: str) -> None:
    layer = GSSOC(4, 4, groups=(2, 1), paired=False, engine=engine, dtype=torch.float64, **PUBLISHED).eval()
    for part in (layer.spatial, layer.pointwise):
        hold_the_vectors(part)
    names, values = zip(*copy.deepcopy(layer).named_parameters(), strict=True)
    assert names == ("spatial.weight", "spatial.bias", "pointwise.weight", "pointwise.bias")

    def function(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(1, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    # Each evaluation bounds the norm of its weights anew: in random directions, for there are many entries.
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True)


def test_options_reach_both_convolutions() -> None:
    layer = GSSOC(8, 8, groups=(2, 2), bias=False, train_terms=3, eval_terms=7, dtype=torch.float64)
    for part in (layer.spatial, layer.pointwise):
        assert (part.groups, part.bias, part.train_terms, part.eval_terms) == (2, None, 3, 7)
        assert part.weight.dtype == torch.float64
    assert layer.pointwise.kernel_size == (1, 1)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 8 * 4 * 9 + 8 * 4


@pytest.mark.parametrize("groups", [4, (4,), (4, 2, 1), (None, 4), (0, None), (4, 0), (-1, 2), "44", (None, None)])
def test_groups_that_are_not_two_are_refused(groups: Any) -> None:
    with pytest.raises(ValueError, match=r"groups must be \(a, b\) or \(a, None\) with a, b >= 1, got"):
        GSSOC(8, 8, groups=groups)


def test_channels_that_a_shuffle_cannot_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"paired shuffle with 4 groups .* divisible by 8, got 12; use paired"):
        GSSOC(12, 16, groups=(4, None))
    with pytest.raises(ValueError, match=r"paired shuffle with 4 groups .* divisible by 8, got 12"):
        GSSOC(16, 12, groups=(2, 4))
    assert GSSOC(12, 16, groups=(4, None), paired=False).eval().lipschitz_bound() == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 2}, "kernel_size must be odd, got 2"),
        ({"padding_mode": "replicate"}, "padding_mode must be one of .*, got 'replicate'"),
        ({"groups": (3, None), "paired": False}, "groups must divide .*, got 3"),
        ({"groups": (2, 3), "paired": False}, "groups must divide .*, got 3"),
        ({"dilation": 3}, "dilation must be 1, got 3"),
    ],
)
def test_settings_that_soc_refuses_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GSSOC(8, 8, **settings)


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (4, 4, 4), (8, 8)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"needs an input of shape \(B, 8, H, W\) .*got .*{received}\)"):
        GSSOC(8, 8, groups=(2, None))(torch.zeros(shape))
