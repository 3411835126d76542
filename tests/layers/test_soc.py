"""SOC against the matrix exponential of its dense skew Jacobian, over the grid of its settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lipnet.layers import SOC
from lipnet.layers.scaling import JacobianScaling
from tests.oracles import (
    convolution_matrix,
    dense_jacobian,
    skew_orthogonal_matrix,
    spectral_norm,
    truncated_exponential,
    truncation_error,
)
from tests.settings import PATHS, PUBLISHED, SCALINGS, converge_the_stored_vectors, hold_the_vectors

# (channels in, channels out) for stride 1 and for stride 2, where the channels in count four times.
EQUAL, MORE, FEWER = {1: (4, 4), 2: (1, 4)}, {1: (2, 6), 2: (1, 6)}, {1: (6, 4), 2: (2, 4)}
SIZE = {1: (4, 3), 2: (8, 6)}


def evaluated_layer(*channels: int, **settings: Any) -> SOC:
    return SOC(*channels, dtype=torch.float64, **settings).eval()


def largest_norm(layer: SOC) -> float:
    """Return the largest ||J|| after scaling: 1.4 at the frequencies of 8 x 8 maps, or 2.1 at all frequencies."""
    if not isinstance(layer.scaling, JacobianScaling):
        return 2.1 * (1 + 1e-12)
    return 1.4 * (1 + 1e-5) / math.prod(math.cos(math.pi * (k // 2) / 8) for k in layer.kernel_size)


@pytest.mark.cover(2)
@pytest.mark.parametrize(
    ("options", "kernel_size"),
    [({}, 1), ({}, 3), ({}, 5), ({}, (3, 1)), (PUBLISHED, 1), (PUBLISHED, 3)],
    ids=lambda value: "published" if value == PUBLISHED else None,
)
@pytest.mark.parametrize("channels", [EQUAL, MORE, FEWER], ids=["equal", "more", "fewer"])
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_jacobian_is_the_matrix_exponential(
    stride: int,
    groups: int,
    padding_mode: str,
    engine: str,
    channels: dict[int, tuple[int, int]],
    kernel_size: int | tuple[int, int],
    options: dict[str, Any],
) -> None:
    structure = {"stride": stride, "groups": groups, "padding_mode": padding_mode}
    layer = evaluated_layer(*channels[stride], kernel_size=kernel_size, engine=engine, **structure, **options)
    skew, size = layer.filter(), SIZE[stride]
    matrix = convolution_matrix(skew, size[0] // stride, size[1] // stride, groups, padding_mode)
    np.testing.assert_allclose(matrix, -matrix.T, rtol=0, atol=1e-15)
    norm = spectral_norm(matrix)
    assert 0.1 < norm <= largest_norm(layer)

    jacobian = dense_jacobian(layer, torch.randn(1, channels[stride][0], *size, dtype=torch.float64))
    expected = skew_orthogonal_matrix(skew, *channels[stride], size, **structure)
    error = 1e-12
    if engine == "series":
        error += truncation_error(norm, 12) if options else layer.eval_tolerance
    assert spectral_norm(jacobian - expected) <= error
    # Appended channels of zeros keep all norms, and the kept channels are orthonormal rows: all singular values are 1.
    singular_values = np.linalg.svd(jacobian, compute_uv=False)
    assert singular_values.max() <= layer.lipschitz_bound() * (1 + 1e-13)
    assert singular_values.min() >= 1 - error
    assert layer.lipschitz_bound() == 1.0


@pytest.mark.parametrize("kernel_size", [1, 3, (3, 5)])
@pytest.mark.parametrize(("stride", "groups", "padding_mode"), [(1, 1, "zeros"), (2, 2, "circular"), (2, 1, "zeros")])
def test_with_many_terms_nothing_is_left_to_truncate(
    stride: int, groups: int, padding_mode: str, kernel_size: int | tuple[int, int]
) -> None:
    structure = {"stride": stride, "groups": groups, "padding_mode": padding_mode}
    layer = evaluated_layer(*FEWER[stride], kernel_size=kernel_size, engine="series", eval_terms=30, **structure)
    jacobian = dense_jacobian(layer, torch.randn(1, FEWER[stride][0], *SIZE[stride], dtype=torch.float64))
    expected = skew_orthogonal_matrix(layer.filter(), *FEWER[stride], SIZE[stride], **structure)
    # All but what a contraction is shrunk by, to be one in floats too.
    np.testing.assert_allclose(jacobian, (1 - 2**-40) * expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("terms", [1, 3, 5, 12])
@pytest.mark.parametrize("training", [True, False])
def test_each_mode_has_its_own_number_of_terms(training: bool, terms: int, scaling: str) -> None:
    numbers = {"train_terms": terms, "eval_terms": 7} if training else {"train_terms": 7, "eval_terms": terms}
    settings = {"stride": 2, "engine": "series", "series": "taylor", "scaling": scaling, "dtype": torch.float64}
    layer = SOC(2, 4, **settings, **numbers).train(training)
    expected = skew_orthogonal_matrix(
        layer.filter(), 2, 4, (6, 6), stride=2, function=lambda matrix: truncated_exponential(matrix, terms)
    )
    jacobian = dense_jacobian(layer, torch.randn(1, 2, 6, 6, dtype=torch.float64))
    np.testing.assert_allclose(jacobian, expected, rtol=0, atol=1e-11)


@pytest.mark.cover(1)
@pytest.mark.parametrize("series", ["chebyshev", "taylor"])
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("tolerance", [0.2, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("training", [True, False])
def test_each_mode_is_as_near_the_exponential_as_its_tolerance(
    training: bool, tolerance: float, scaling: str, series: str
) -> None:
    both = {"train_tolerance": tolerance, "eval_tolerance": 0.5}
    tolerances = both if training else dict(zip(both, reversed(both.values()), strict=True))
    settings = {"engine": "series", "series": series, "scaling": scaling, "dtype": torch.float64}
    layer = SOC(4, 4, **settings, **tolerances).eval()
    if training:
        converge_the_stored_vectors(layer.train())
    expected = skew_orthogonal_matrix(layer.filter(), 4, 4, (5, 5))
    error = spectral_norm(dense_jacobian(layer, torch.randn(1, 4, 5, 5, dtype=torch.float64)) - expected)
    assert error <= tolerance
    # Nor is it much better than was asked for: that would be paid for in convolutions. Of Taylor's polynomials one up
    # to three degrees on is taken if it is a contraction.
    assert error >= tolerance * (1e-4 if series == "chebyshev" else 1e-6)


def test_stride_is_space_to_depth_before_stride_one() -> None:
    layer, plain = evaluated_layer(2, 8, stride=2), evaluated_layer(8, 8)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    assert torch.equal(layer(x), plain(F.pixel_unshuffle(x, 2)))


def test_channels_of_zeros_are_appended_and_the_first_channels_kept() -> None:
    full, expanding, reducing = evaluated_layer(6, 6), evaluated_layer(2, 6), evaluated_layer(6, 4, bias=False)
    expanding.load_state_dict(full.state_dict())
    reducing.load_state_dict({name: value for name, value in full.state_dict().items() if name != "bias"})
    full.bias.data.zero_()
    expanding.bias.data.zero_()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    padded = torch.cat((x[:, :2], torch.zeros_like(x[:, 2:])), dim=1)
    assert torch.equal(expanding(x[:, :2]), full(padded))
    assert torch.equal(reducing(x), full(x)[:, :4])


def test_groups_do_not_mix_and_each_has_its_own_scale() -> None:
    layer = evaluated_layer(8, 8, groups=4, bias=False)
    layer.weight.data[2:4] *= 100
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    for group in range(4):
        part = slice(2 * group, 2 * group + 2)
        single = evaluated_layer(2, 2, bias=False)
        single.weight.data.copy_(layer.weight[part])
        torch.testing.assert_close(layer(x)[:, part], single(x[:, part]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_the_bias_is_added_at_the_end(training: bool) -> None:
    layer = SOC(2, 4, dtype=torch.float64).train(training)
    assert layer.bias.abs().min() > 0
    y = layer(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    assert torch.equal(y, layer.bias.view(1, 4, 1, 1).expand(1, 4, 3, 3))
    assert SOC(2, 4, bias=False).bias is None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_an_unbatched_input_equals_a_batch_of_one(training: bool, stride: int) -> None:
    layer = SOC(2, 4, stride=stride, dtype=torch.float64).eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    if training:
        state = {name: value.clone() for name, value in layer.state_dict().items()}
        batched = layer.train()(x[None])
        layer.load_state_dict(state)
    else:
        batched = layer(x[None])
    unbatched = layer(x)
    assert unbatched.shape == (4, 4 // stride, 6 // stride)
    assert torch.equal(unbatched, batched[0])


def test_an_empty_batch_stays_empty() -> None:
    assert SOC(2, 4, stride=2)(torch.zeros(0, 2, 4, 4)).shape == (0, 4, 2, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "series"},
        {"engine": "dense", "scaling": "reshaped"},
        {"engine": "series", "stride": 2, "groups": 2, "scaling": "reshaped", "series": "taylor", "eval_terms": 6},
        {"kernel_size": 1},
        {"engine": "series", "padding_mode": "circular", "scaling": "reshaped"},
        {"engine": "spectral", "padding_mode": "circular"},
    ],
)
def test_gradients_in_evaluation(settings: dict[str, Any]) -> None:
    layer = evaluated_layer(2, 4, **settings)
    hold_the_vectors(layer)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def function(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (layer.weight, layer.bias))
    # Each evaluation bounds the norm of its weights anew: in random directions, for there are many entries.
    assert torch.autograd.gradcheck(function, (x, weight, bias), fast_mode=True)


@pytest.mark.cover(1)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
def test_gradients_in_training(padding_mode: str, engine: str, scaling: str) -> None:
    """Compare with finite differences, with the stored vectors fixed at the filter's singular vectors."""
    settings = {"padding_mode": padding_mode, "engine": engine, "scaling": scaling, "stride": (1, 2), "groups": 2}
    layer = SOC(2, 4, **settings, dtype=torch.float64)
    converge_the_stored_vectors(layer)
    state = {name: value.clone() for name, value in layer.scaling.state_dict().items()}

    def function(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        layer.scaling.load_state_dict(state)
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in (layer.weight, layer.bias))
    assert torch.autograd.gradcheck(function, (x, weight, bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weight", ["random", "zero"])
@pytest.mark.parametrize("options", [{}, {"engine": "dense"}, PUBLISHED], ids=["default", "dense", "published"])
def test_gradients_reach_the_weight_and_are_finite(options: dict[str, Any], weight: str, training: bool) -> None:
    layer = SOC(3, 4, **options, dtype=torch.float64).train(training)
    if weight == "zero":
        layer.weight.data.zero_()
    layer(torch.randn(2, 3, 4, 4, dtype=torch.float64)).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("options", [{}, PUBLISHED], ids=["default", "published"])
def test_autocast_runs_in_training(options: dict[str, Any]) -> None:
    layer = SOC(3, 4, stride=2, **options)
    x = torch.randn(2, 3, 8, 8)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    expected = layer(x)
    layer.load_state_dict(state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.filter().dtype == torch.float32
        result = layer(x)
        loss = result.float().square().mean()
    loss.backward()
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.1)
    assert not torch.equal(result.float(), expected)
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_autocast_does_not_change_the_filter_of_evaluation(scaling: str) -> None:
    layer = SOC(3, 4, scaling=scaling).eval()
    expected = layer.filter()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.filter(), expected)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_filter_is_that_of_the_layers_precision(scaling: str) -> None:
    layer = SOC(4, 4, scaling=scaling).eval()
    exact = evaluated_layer(4, 4, scaling=scaling)
    exact.weight.data.copy_(layer.weight)
    assert layer.filter().dtype == torch.float32
    assert torch.equal(layer.filter(), exact.filter().float())


def test_a_layer_on_the_meta_device_has_shapes_alone() -> None:
    layer = SOC(16, 64, stride=2, groups=4, device="meta")
    assert layer.weight.is_meta
    assert layer.weight.shape == (64, 16, 3, 3)
    assert layer.scaling.vectors.shape == (4, 16, 8, 8)
    published = SOC(16, 64, stride=2, groups=4, device="meta", **PUBLISHED)
    assert published.scaling.flat_vectors.shape == (4, 144)
    assert published.scaling.blocked_vectors.shape == (4, 48)
    assert all(value.is_meta for each in (layer, published) for value in each.state_dict().values())


def test_representation() -> None:
    assert repr(SOC(2, 4)).startswith("SOC(\n  2, 4, kernel_size=(3, 3), stride=(1, 1)\n")
    settings = {"kernel_size": 1, "stride": 2, "groups": 2, "bias": False, "padding_mode": "circular"}
    options = {"engine": "dense", "series": "taylor", "recompute": True}
    structure = "kernel_size=(1, 1), stride=(2, 2), groups=2, bias=False"
    expected = f"{structure}, engine='dense', series='taylor', padding_mode='circular', recompute=True"
    assert SOC(2, 4, **settings, **options).extra_repr() == f"2, 4, {expected}"
    terms = SOC(2, 4, train_terms=5, eval_terms=12, train_tolerance=0.1, eval_tolerance=1e-3).extra_repr()
    assert terms.endswith(", train_terms=5, eval_terms=12, train_tolerance=0.1, eval_tolerance=0.001")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of .*, got 'reflect'"),
        ({"dilation": 2}, "dilation must be 1, got 2"),
        ({"stride": 0}, r"stride must be positive, got 0"),
        ({"stride": (1, -2)}, r"stride must be positive, got \(1, -2\)"),
        ({"padding": 2}, "padding must be 'same', .* got 2"),
        ({"groups": 3}, r"groups must divide max\(in_channels \* stride\^2, out_channels\) = 8, got 3"),
        ({"train_terms": 0}, "terms must be from 1 to 64, or None, got 0"),
        ({"eval_terms": 100_000, "series": "taylor"}, "terms must be from 1 to 64, or None, got 100000"),
        ({"train_terms": 65}, "terms must be from 1 to 64, or None, got 65"),
        ({"eval_terms": -1}, "terms must be from 1 to 64, or None, got -1"),
        ({"engine": "fft"}, r"engine must be one of \('auto', 'series', 'spectral', 'dense'\), got 'fft'"),
        ({"engine": "spectral"}, "engine 'spectral' needs padding_mode='circular'.*got padding_mode='zeros'"),
        ({"series": "legendre"}, r"series must be one of \('chebyshev', 'taylor'\), got 'legendre'"),
        ({"series": "Taylor", "train_terms": 5, "eval_terms": 12}, "series must be one of .*, got 'Taylor'"),
        ({"scaling": "none"}, r"scaling must be one of \('jacobian', 'reshaped'\), got 'none'"),
        ({"train_tolerance": 0}, "tolerance must be positive, got 0"),
        ({"eval_tolerance": -1e-5}, "tolerance must be positive, got -1e-05"),
        ({"eval_tolerance": math.nan}, "tolerance must be positive, got nan"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SOC(2, 8, **settings)


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (2, 4, 4), (3, 4), (1, 1, 3, 4, 4)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"\(B, 3, H, W\) or \(3, H, W\), got \({received}\)"):
        SOC(3, 4)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(5, 4), (4, 5)])
def test_a_size_that_the_stride_does_not_divide_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"stride 2 needs .* divisible by it, got {size[0]} x {size[1]}"):
        SOC(1, 4, stride=2)(torch.zeros(1, 1, *size))


def test_circular_padding_needs_a_map_as_large_as_its_reach() -> None:
    layer = SOC(1, 1, kernel_size=5, padding_mode="circular")
    assert layer(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 2, 2)
    with pytest.raises(
        ValueError, match=r"circular padding needs height and width of at least 2 x 2 for its .*, got 1 x 2"
    ):
        layer(torch.zeros(1, 1, 1, 2))
