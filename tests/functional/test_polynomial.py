"""Polynomials of a skew convolution against dense matrices and the reference, values and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import PADDING_MODES, skew_filter, skew_polynomial
from lipnet.functional.forms import form_matrices
from lipnet.functional.reference import polynomial as plain
from lipnet.functional.series import chebyshev_coefficients, monic_polynomial, taylor_coefficients
from tests.oracles import convolution_matrix, to_numpy

# Real roots and complex ones, a root of 0, and a leading coefficient of 1.
CUBIC = (0.5, -1.0, 0.25, 2.0)
POLYNOMIALS = [
    CUBIC,
    (0.3, 1.0),
    (1.0, 0.0, 1.0),
    (0.0, 1.0, -3.0, 1.0),
    monic_polynomial(taylor_coefficients(4))[1],
    monic_polynomial(chebyshev_coefficients(5, 1.4))[1],
]
# Sizes up to 2 x 2 pixels use products of channels, larger ones do not.
SIZES = [(1, 1), (2, 2), (1, 2), (3, 5), (1, 4)]
SETTINGS = [
    pytest.param((2, 2, 3, 3), 1, "zeros", id="3x3"),
    pytest.param((4, 2, 3, 3), 2, "zeros", id="grouped"),
    pytest.param((4, 2, 3, 1), 2, "circular", id="circular"),
    pytest.param((4, 4, 1, 1), 1, "zeros", id="pointwise"),
    pytest.param((4, 4, 3, 5), 1, "zeros", id="3x5"),
]
LAYOUTS = {
    "channels last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.mT.contiguous().mT,
    "swapped": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "sliced": lambda tensor: tensor.repeat_interleave(2, dim=3)[..., ::2],
}


def operands(
    shape: tuple[int, ...], groups: int = 1, size: tuple[int, int] = (4, 3), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Maps, and a skew filter of norm about 1; both leaves that require gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, shape[0], *size, generator=generator, dtype=torch.float64)
    weight = skew_filter(torch.randn(shape, generator=generator, dtype=torch.float64), groups)
    weight = weight / weight[0].numel() ** 0.5
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def gradients(result: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad(result, inputs, cotangent.to(result.dtype))


def assert_all_close(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, check_stride=False)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("coefficients", POLYNOMIALS)
def test_the_polynomial_of_the_dense_matrix(coefficients: tuple[float, ...], groups: int, padding_mode: str) -> None:
    for size in SIZES:
        x, weight = operands((4, 4 // groups, 3, 3), groups, size)
        matrix = convolution_matrix(weight, *size, groups, padding_mode)
        terms = [c * np.linalg.matrix_power(matrix, power) for power, c in enumerate(coefficients)]
        expected = to_numpy(x.flatten(1)) @ np.sum(terms, axis=0).T
        differentiable = skew_polynomial(x, weight, coefficients, groups, padding_mode)
        with torch.no_grad():
            evaluated = skew_polynomial(x, weight, coefficients, groups, padding_mode)
        for result in (differentiable, evaluated):
            assert result.shape == x.shape
            np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("shape", "groups", "padding_mode"), SETTINGS)
def test_gradients_at_a_skew_filter(
    shape: tuple[int, ...], groups: int, padding_mode: str, recompute: bool, dtype: torch.dtype
) -> None:
    tolerance = 1e-11 if dtype is torch.float64 else 1e-4
    for size in ((1, 1), (2, 1), (3, 5)):
        for coefficients in POLYNOMIALS[::2]:
            x, weight = operands(shape, groups, size, dtype)
            expected = plain(x, weight, coefficients, groups, padding_mode)
            result = skew_polynomial(x, weight, coefficients, groups, padding_mode, recompute=recompute)
            assert_all_close([result], [expected], tolerance)
            assert_all_close(gradients(result, (x, weight)), gradients(expected, (x, weight)), tolerance)


@pytest.mark.parametrize("size", [(1, 2), (3, 2)])
@pytest.mark.parametrize(("shape", "groups", "padding_mode"), SETTINGS[1:4])
def test_gradcheck(shape: tuple[int, ...], groups: int, padding_mode: str, size: tuple[int, int]) -> None:
    x, weight = operands(shape, groups, size)
    x = x[:1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *both: skew_polynomial(*both, CUBIC, groups, padding_mode), (x, weight))


def test_long_polynomials_lose_no_precision_as_products() -> None:
    x, weight = operands((4, 4, 3, 3), dtype=torch.float32)
    for coefficients in (taylor_coefficients(12), taylor_coefficients(16), chebyshev_coefficients(16, 1.4)):
        factor, monic = monic_polynomial(coefficients)
        expected = plain(x.double(), factor * weight.double(), monic)
        result = skew_polynomial(x, factor * weight, monic)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_only_tensors_that_require_gradients_get_them(
    dtype: torch.dtype, size: tuple[int, int], recompute: bool, needed: tuple[bool, bool]
) -> None:
    both = operands((2, 2, 3, 3), size=size, dtype=dtype)
    expected = gradients(plain(*both, CUBIC), both)
    x, weight = (tensor.detach().requires_grad_(need) for tensor, need in zip(both, needed, strict=True))
    result = skew_polynomial(x, weight, CUBIC, recompute=recompute)
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    result.backward(cotangent)
    assert [x.grad is not None, weight.grad is not None] == list(needed)
    kept, correct = next(
        (each.grad, other) for each, other in zip((x, weight), expected, strict=True) if each.grad is not None
    )
    assert_all_close([kept], [correct], 1e-11 if dtype is torch.float64 else 1e-4)


def test_without_gradients_no_graph_is_recorded() -> None:
    x, weight = (tensor.detach() for tensor in operands((2, 2, 3, 3)))
    assert skew_polynomial(x, weight, CUBIC).grad_fn is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_first_channels_are_a_slice(groups: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    # The last factor of the first polynomial is linear, that of the second quadratic.
    for coefficients in (CUBIC, (1.0, 0.0, 1.0)):
        for channels, recompute in ((1, False), (2, True), (3, False), (3, True), (4, False), (7, False)):
            both = operands((4, 4 // groups, 3, 3), groups, size, dtype)
            expected = skew_polynomial(*both, coefficients, groups)[:, :channels]
            result = skew_polynomial(*both, coefficients, groups, channels=channels, recompute=recompute)
            assert_all_close([result], [expected], tolerance)
            assert_all_close(gradients(result, both), gradients(expected, both), tolerance)
            with torch.no_grad():
                evaluated = skew_polynomial(*both, coefficients, groups, channels=channels)
            assert_all_close([evaluated], [expected.detach()], tolerance)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_cached_matrices_change_nothing(size: tuple[int, int], groups: int, padding_mode: str) -> None:
    x, weight = (tensor.detach() for tensor in operands((4, 4 // groups, 3, 3), groups, size))
    matrices = form_matrices(weight, size, groups, padding_mode)
    assert (matrices is not None) == (max(size) <= 2)
    for channels in (None, 3):
        result = skew_polynomial(x, weight, CUBIC, groups, padding_mode, channels=channels, matrices=matrices)
        assert torch.equal(result, skew_polynomial(x, weight, CUBIC, groups, padding_mode, channels=channels))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", [(4, 3), (2, 2)])
def test_tensors_saved_for_backward(size: tuple[int, int], recompute: bool) -> None:
    x, weight = operands((2, 2, 3, 3), size=size)
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        skew_polynomial(x, weight, CUBIC, recompute=recompute)
    maps = [tensor for tensor in saved if tensor.numel() == x.numel() and tensor is not weight]
    # The three maps that were convolved, or x alone.
    assert len(maps) == (1 if recompute else 3)
    if recompute:
        assert len(saved) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
def test_the_last_of_large_maps_is_convolved_again(
    size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerance = 1e-11 if dtype is torch.float64 else 1e-4
    for coefficients in POLYNOMIALS:
        for channels in (None, 3):
            both = operands((4, 4, 3, 3), size=size, dtype=dtype)
            expected = gradients(plain(*both, coefficients)[:, :channels], both)
            results = []
            for large in (2**40, 1):
                monkeypatch.setattr("lipnet.functional.polynomial._LARGE", large)
                results.append(gradients(skew_polynomial(*both, coefficients, channels=channels), both))
            for result in results:
                assert_all_close(result, expected, tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("shape", "groups", "padding_mode"), SETTINGS)
def test_maps_filters_and_gradients_in_another_layout(
    shape: tuple[int, ...], groups: int, padding_mode: str, dtype: torch.dtype, layout: str
) -> None:
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    for size in ((1, 1), (2, 2), (4, 3)):
        x, weight = operands(shape, groups, size, dtype)
        expected = skew_polynomial(x, weight, CUBIC, groups, padding_mode)
        result = skew_polynomial(LAYOUTS[layout](x), LAYOUTS[layout](weight), CUBIC, groups, padding_mode)
        assert_all_close([result], [expected], tolerance)
        cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        assert_all_close(
            torch.autograd.grad(result, (x, weight), LAYOUTS[layout](cotangent)),
            torch.autograd.grad(expected, (x, weight), cotangent),
            tolerance,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_empty_batches(groups: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    for channels, recompute in ((None, False), (3, False), (None, True)):
        x, weight = operands((4, 4 // groups, 3, 3), groups, size, dtype)
        empty = x[:0].detach().requires_grad_()
        result = skew_polynomial(empty, weight, CUBIC, groups, channels=channels, recompute=recompute)
        assert result.shape == (0, channels or 4, *size)
        x_gradient, weight_gradient = torch.autograd.grad(result.sum(), (empty, weight))
        assert x_gradient.shape == empty.shape
        assert torch.equal(weight_gradient, torch.zeros_like(weight))
        with torch.no_grad():
            assert skew_polynomial(empty, weight, CUBIC, groups, channels=channels).shape == (0, channels or 4, *size)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_second_derivative_is_refused(recompute: bool) -> None:
    x, weight = operands((2, 2, 3, 3))
    result = skew_polynomial(x, weight, CUBIC, recompute=recompute)
    (gradient,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("size", [(2, 2), (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_result_is_not_the_inputs_memory(dtype: torch.dtype, size: tuple[int, int]) -> None:
    x, weight = (tensor.detach() for tensor in operands((2, 2, 3, 3), size=size, dtype=dtype))
    before = x.clone(), weight.clone()
    skew_polynomial(x, weight, [1.0, 1.0]).zero_()
    skew_polynomial(x, weight, [1.0, 1.0], channels=1).zero_()
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("groups", "size", "channels"), [(1, (4, 3), None), (2, (2, 2), 3), (2, (4, 3), 3), (1, (1, 2), 3)]
)
def test_batched_gradients(dtype: torch.dtype, groups: int, size: tuple[int, int], channels: int | None) -> None:
    """``torch.autograd.grad(..., is_grads_batched=True)`` computes such gradients by vmap over the backward pass."""
    both = operands((4, 4 // groups, 3, 3), groups, size, dtype)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return skew_polynomial(x, weight, CUBIC, groups, channels=channels)

    correct = torch.autograd.functional.jacobian(lambda x, w: plain(x, w, CUBIC, groups)[:, :channels], both)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-4
    assert_all_close(torch.autograd.functional.jacobian(function, both, vectorize=True), correct, tolerance)


def test_function_transforms_are_refused_by_torch() -> None:
    x, weight = (each.detach() for each in operands((2, 2, 3, 3)))

    def loss(x: Tensor) -> Tensor:
        return skew_polynomial(x, weight, CUBIC).sum()

    for transform in (torch.func.grad(loss), torch.func.vmap(torch.func.grad(loss))):
        with pytest.raises(RuntimeError, match="functorch transforms"):
            transform(torch.stack([x, x]))


def test_autocast_computes_and_differentiates_in_the_lower_precision() -> None:
    for size in ((4, 3), (2, 2)):
        x, weight = operands((2, 2, 3, 3), size=size, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            result = skew_polynomial(x, weight, CUBIC)
        assert result.dtype is torch.bfloat16
        expected = plain(x, weight, CUBIC)
        torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.1)
        result.float().sum().backward()
        assert x.grad is not None
        assert weight.grad is not None
        assert x.grad.dtype is weight.grad.dtype is torch.float32
        correct = torch.autograd.grad(expected.sum(), (x, weight))
        assert_all_close((x.grad, weight.grad), [each.detach() for each in correct], 0.2)


@pytest.mark.parametrize("coefficients", [(), (1.0,), (1.0, 0.0), (1.0, 2.0, 0.0)])
def test_polynomials_of_degree_zero_are_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"coefficients must be at least two, the last one not 0, got \("):
        skew_polynomial(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3), coefficients)


@pytest.mark.parametrize("size", [(2, 2), (4, 4)])
def test_other_padding_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"padding_mode must be one of .*'reflect'"):
        skew_polynomial(torch.zeros(1, 1, *size), torch.zeros(1, 1, 3, 3), [1.0, 1.0], padding_mode="reflect")
