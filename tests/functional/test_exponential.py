"""Exact exponentials of skew convolutions against SciPy's exponential of their dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import lipnet.functional.exponential
from lipnet.functional import skew_filter
from lipnet.functional.contractions import orthogonal_contractions
from lipnet.functional.convolution import PADDING_MODES, jacobian_matrices
from lipnet.functional.exponential import (
    apply_dense,
    dense_exponential,
    exact_coefficients,
    matrix_function,
    products_of_a_polynomial,
)
from lipnet.functional.spectral import apply_spectral, spectral_exponential
from tests.oracles import convolution_matrix, exponential, to_numpy

KERNELS = [(1, 1), (3, 3), (3, 1), (1, 3), (3, 5)]
# Odd and even, smaller than a kernel, and on both sides of 64 pixels, up to which the transform is a matrix product.
SIZES = [(1, 2), (2, 2), (3, 4), (5, 5), (4, 3), (8, 8), (9, 8), (8, 9)]


def operands(kernel: tuple[int, int], size: tuple[int, int], groups: int = 1) -> tuple[Tensor, Tensor]:
    """Maps (3, 4, *size), and a skew filter of norm about 2."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 4, *size, generator=generator, dtype=torch.float64)
    return x, skew_filter(weight, groups) * (2 / math.sqrt(weight[0].numel()))


def expected_maps(x: Tensor, weight: Tensor, groups: int, padding_mode: str, sign: int = 1) -> np.ndarray:
    matrix = convolution_matrix(weight, x.shape[-2], x.shape[-1], groups, padding_mode)
    return to_numpy(x.flatten(1)) @ exponential(sign * matrix).T


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_dense_exponential(kernel: tuple[int, int], groups: int, padding_mode: str) -> None:
    for size in ((2, 2), (3, 4), (5, 3)):
        x, weight = operands(kernel, size, groups)
        matrices = dense_exponential(weight, size, groups, padding_mode)
        assert matrices.shape == (groups, 4 // groups * size[0] * size[1], 4 // groups * size[0] * size[1])
        result = apply_dense(x, matrices)
        expected = expected_maps(x, weight, groups, padding_mode)
        np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(apply_dense(result, matrices.mT), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_pointwise_kernel_has_one_matrix_for_all_pixels(groups: int) -> None:
    for size in ((1, 1), (1, 4), (5, 3)):
        x, weight = operands((1, 1), size, groups)
        result = apply_dense(x, dense_exponential(weight, (1, 1), groups))
        expected = expected_maps(x, weight, groups, "zeros")
        np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", KERNELS)
def test_spectral_exponential(kernel: tuple[int, int], groups: int) -> None:
    for size in SIZES:
        if kernel[0] // 2 > size[0] or kernel[1] // 2 > size[1]:
            continue
        x, weight = operands(kernel, size, groups)
        response = spectral_exponential(weight, size, groups)
        assert response.shape == (size[0], size[1] // 2 + 1, groups, 4 // groups, 4 // groups)
        result = apply_spectral(x, response)
        assert result.shape == x.shape
        expected = expected_maps(x, weight, groups, "circular")
        np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(apply_spectral(result, response.mH), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", range(13))
def test_a_polynomial_of_matrices(degree: int) -> None:
    """Compare with the sum of powers, and count the products."""
    generator = torch.Generator().manual_seed(degree)
    coefficients = torch.randn(degree + 1, generator=generator, dtype=torch.float64).tolist()
    for dtype in (torch.float64, torch.complex128):
        matrices = torch.randn(2, 3, 4, 4, generator=generator, dtype=dtype) / 2
        expected = sum(c * torch.linalg.matrix_power(matrices, k) for k, c in enumerate(coefficients))
        torch.testing.assert_close(matrix_function(matrices, coefficients), expected, rtol=0, atol=1e-12)
    with torch.autograd.profiler.profile() as profile:
        matrix_function(matrices, coefficients)
    products = sum(event.name == "aten::bmm" for event in profile.function_events)
    assert products == (products_of_a_polynomial(degree) if degree else 0)


@pytest.mark.parametrize("size", [(2, 2), (3, 4), (9, 8)])
def test_polynomials_in_place_of_the_exponential(size: tuple[int, int]) -> None:
    """Dense and spectral polynomials equal those of the convolution's dense matrix."""
    coefficients = (1.0, 0.9, 0.5, 0.2)
    x, weight = operands((3, 3), size, 2)
    matrix = torch.block_diag(*jacobian_matrices(weight, size, 2, "circular"))
    expected = x.flatten(1) @ sum(c * torch.linalg.matrix_power(matrix, k) for k, c in enumerate(coefficients)).mT
    spectral = apply_spectral(x, spectral_exponential(weight, size, 2, coefficients=coefficients))
    dense = apply_dense(x, dense_exponential(weight, size, 2, "circular", coefficients=coefficients))
    for result in (spectral, dense):
        torch.testing.assert_close(result.flatten(1), expected, rtol=0, atol=1e-12)


def test_the_inverse_is_the_exponential_of_minus_the_filter() -> None:
    x, weight = operands((3, 3), (3, 4), 2)
    expected = expected_maps(x, weight, 2, "circular", sign=-1)
    spectral = apply_spectral(x, spectral_exponential(weight, (3, 4), 2).mH)
    dense = apply_dense(x, dense_exponential(weight, (3, 4), 2, "circular").mT)
    np.testing.assert_allclose(to_numpy(spectral.flatten(1)), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(to_numpy(dense.flatten(1)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 20.0])
def test_the_matrices_are_orthogonal_and_unitary(scale: float) -> None:
    _, weight = operands((3, 3), (3, 4), 2)
    for matrices in (dense_exponential(scale * weight, (3, 4), 2), spectral_exponential(scale * weight, (3, 4), 2)):
        identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype).expand_as(matrices)
        torch.testing.assert_close(matrices.mH @ matrices, identity, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (9, 8)])
def test_gradients_of_the_spectral_exponential_are_those_of_the_dense_one(size: tuple[int, int]) -> None:
    x, weight = (tensor.requires_grad_() for tensor in operands((3, 3), size, 2))
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spectral = apply_spectral(x, spectral_exponential(weight, size, 2))
    dense = apply_dense(x, dense_exponential(weight, size, 2, "circular"))
    for actual, expected in zip(
        torch.autograd.grad(spectral, (x, weight), cotangent),
        torch.autograd.grad(dense, (x, weight), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "size"), [((3, 3), (2, 2)), ((1, 1), (2, 3)), ((3, 1), (3, 2))])
def test_gradcheck(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    x, weight = (tensor.requires_grad_() for tensor in operands(kernel, size, 2))
    x = x[:1].detach().requires_grad_()
    own = (1, 1) if kernel == (1, 1) else size
    assert torch.autograd.gradcheck(lambda x, w: apply_dense(x, dense_exponential(w, own, 2)), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: apply_spectral(x, spectral_exponential(w, size, 2)), (x, weight))


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (9, 8)])
def test_gradients_of_a_spectral_convolution(size: tuple[int, int]) -> None:
    """First and second derivatives, one by one and batched, for a response that is the spectrum of no real filter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    shape = (size[0], size[1] // 2 + 1, 1, 2, 2)
    response = torch.randn(shape, generator=generator, dtype=torch.complex128, requires_grad=True)
    few = [(x[:1, :, :2, :2].detach().requires_grad_(), response[:2, :2].detach().requires_grad_())]
    assert torch.autograd.gradcheck(apply_spectral, (x, response), check_batched_grad=True)
    for operands_ in few:
        assert torch.autograd.gradgradcheck(apply_spectral, operands_)
    with torch.no_grad():
        assert torch.equal(apply_spectral(x, response), apply_spectral(x.detach().requires_grad_(), response))
    (alone,) = torch.autograd.grad(apply_spectral(x.detach(), response).square().sum(), response)
    (both,) = torch.autograd.grad(apply_spectral(x, response).square().sum(), response)
    assert torch.equal(alone, both)
    each = torch.func.vmap(
        torch.func.grad(lambda x, r: apply_spectral(x[None], r).square().sum(), argnums=1), (0, None)
    )
    torch.testing.assert_close(each(x, response).sum(0), both, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(2, 2), (9, 8)])
def test_maps_in_another_layout_and_empty_batches(size: tuple[int, int]) -> None:
    x, weight = operands((3, 3), size, 2)
    dense, spectral = dense_exponential(weight, size, 2), spectral_exponential(weight, size, 2)
    layouts = (
        x.contiguous(memory_format=torch.channels_last),
        x.mT.contiguous().mT,
        x.transpose(0, 1).clone().transpose(0, 1),
    )
    for same in layouts:
        torch.testing.assert_close(apply_dense(same, dense), apply_dense(x, dense), rtol=0, atol=1e-14)
        torch.testing.assert_close(apply_spectral(same, spectral), apply_spectral(x, spectral), rtol=0, atol=1e-14)
    for apply, operand in ((apply_dense, dense), (apply_spectral, spectral)):
        assert apply(x[:0], operand).shape == (0, 4, *size)
        empty, matrices = x[:0].clone().requires_grad_(), operand.clone().requires_grad_()
        gradient, nothing = torch.autograd.grad(apply(empty, matrices).sum(), (empty, matrices))
        assert gradient.shape == empty.shape
        assert not nothing.any()


@pytest.mark.parametrize("size", [(4, 3), (9, 8)])
def test_single_precision(size: tuple[int, int]) -> None:
    x, weight = operands((3, 3), size, 2)
    expected = expected_maps(x, weight, 2, "circular")
    single, filter_ = x.float(), weight.float()
    spectral = apply_spectral(single, spectral_exponential(filter_, size, 2))
    dense = apply_dense(single, dense_exponential(filter_, size, 2, "circular"))
    for result in (spectral, dense):
        assert result.dtype is torch.float32
        np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contractions_of_exponentials(dtype: torch.dtype) -> None:
    _, weight = operands((3, 3), (4, 3), 2)
    for matrices, kind in (
        (dense_exponential(weight, (4, 3), 2), dtype),
        (spectral_exponential(weight, (4, 3), 2), dtype.to_complex()),
    ):
        result = orthogonal_contractions(matrices, kind).to(matrices.dtype)
        assert np.linalg.norm(result.numpy(), 2, axis=(-2, -1)).max() <= 1 + 1e-15
        torch.testing.assert_close(result, matrices, rtol=0, atol=20 * torch.finfo(dtype).eps + 1e-12)


@pytest.mark.parametrize("norm", [0.0, 1e-6, 0.3, 1.5, 2.1, 2.5])
def test_the_polynomial_of_exact_coefficients_is_the_exponential(norm: float) -> None:
    matrices = torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    skew = matrices - matrices.mT
    skew = skew / torch.linalg.matrix_norm(skew, ord=2)[:, None, None] * norm
    result = matrix_function(skew, exact_coefficients(norm))
    for each, matrix in zip(result, skew, strict=True):
        np.testing.assert_allclose(each.numpy(), scipy.linalg.expm(matrix.numpy()), rtol=0, atol=1e-14)
    # Shrinking to norm 1 needs no second product in double precision, and moves nothing but the last digits.
    shrunk = orthogonal_contractions(result, torch.float64)
    assert float(torch.linalg.matrix_norm(shrunk, ord=2).max()) <= 1 + 1e-15
    np.testing.assert_allclose(shrunk.numpy(), result.numpy(), rtol=0, atol=1e-12)


def test_large_norms_have_no_exact_coefficients() -> None:
    assert exact_coefficients(2.6) is None
    assert exact_coefficients(math.inf) is None


@pytest.mark.parametrize("groups", [1, 2])
def test_pointwise_products_in_channels_last(monkeypatch: pytest.MonkeyPatch, groups: int) -> None:
    x, weight = operands((1, 1), (5, 3), groups)
    x.requires_grad_()
    matrices = dense_exponential(weight, (1, 1), groups).requires_grad_()
    expected = apply_dense(x, matrices)
    gradients = torch.autograd.grad(expected.square().sum(), (x, matrices))
    monkeypatch.setattr(lipnet.functional.exponential, "reads_channels_last", lambda maps: True)
    result = apply_dense(x, matrices)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-14, check_stride=False)
    for one, other in zip(torch.autograd.grad(result.square().sum(), (x, matrices)), gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13, check_stride=False)
