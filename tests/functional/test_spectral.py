"""Spectral convolutions agree with NumPy's Fourier transforms and with dense circulant matrices, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import skew_filter
from lipnet.functional.spectral import apply_spectral, spectral_exponential
from tests.oracles import convolution_matrix, exponential, to_numpy

# Even and odd, a single row and column, and both sides of 64 pixels, up to which transforms are matrix products.
SIZES = [(1, 1), (1, 4), (5, 1), (2, 2), (3, 4), (4, 3), (8, 8), (8, 9), (9, 8)]
SIZE = (3, 4)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_response(size: tuple[int, int], groups: int, channels: int) -> Tensor:
    """Any complex matrices: not those of a real filter, whose spectrum has symmetries."""
    return random(size[0], size[1] // 2 + 1, groups, channels // groups, channels // groups, dtype=torch.complex128)


def filtered(x: Tensor, response: Tensor) -> np.ndarray:
    """Multiply the half spectrum of x (B, c, H, W) by the response, with NumPy's transforms."""
    groups = response.shape[2]
    spectrum = np.fft.rfft2(x.numpy()).reshape(len(x), groups, x.shape[1] // groups, *response.shape[:2])
    product = np.einsum("hwgoi,bgihw->bgohw", response.resolve_conj().numpy(), spectrum)
    return np.fft.irfft2(product.reshape(len(x), x.shape[1], *response.shape[:2]), s=x.shape[-2:])


def expected_exponential(x: Tensor, weight: Tensor, groups: int = 1) -> np.ndarray:
    matrix = convolution_matrix(weight, x.shape[-2], x.shape[-1], groups, "circular")
    return to_numpy(x.flatten(1)) @ exponential(matrix).T


def rank_one(weight: Tensor) -> Tensor:
    return weight[:, :1, :1, :1] * weight[:1, :, :1, :1] + torch.zeros_like(weight)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
def test_the_spectrum_is_multiplied_by_the_response(size: tuple[int, int], groups: int) -> None:
    x, response = random(3, 4, *size), random_response(size, groups, 4)
    np.testing.assert_allclose(apply_spectral(x, response).numpy(), filtered(x, response), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [SIZE, (9, 8)])
def test_with_and_without_gradients_the_result_is_the_same(size: tuple[int, int]) -> None:
    x, response = random(2, 4, *size), random_response(size, 2, 4)
    plain = apply_spectral(x, response)
    assert torch.equal(plain, apply_spectral(x.clone().requires_grad_(), response).detach())
    assert torch.equal(plain, apply_spectral(x, response.clone().requires_grad_()).detach())


@pytest.mark.parametrize("size", [(2, 3), (3, 2), (9, 8)])
def test_the_gradient_of_x_is_the_adjoint(size: tuple[int, int]) -> None:
    x, y = random(2, 2, *size).requires_grad_(), random(2, 2, *size, seed=1)
    # A response of a real filter: only its convolution is a real map with the conjugate transposes as adjoint.
    weight = random(2, 2, 3, 3, seed=2)
    response = spectral_exponential(skew_filter(weight), size, coefficients=(0.5, 1.0, 2.0))
    (gradient,) = torch.autograd.grad(apply_spectral(x, response), x, y)
    np.testing.assert_allclose(gradient.numpy(), filtered(y, response.mH), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 2), (2, 3)])
def test_gradcheck_of_both_orders(size: tuple[int, int]) -> None:
    x = random(2, 2, *size).requires_grad_()
    response = random_response(size, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(apply_spectral, (x, response))
    assert torch.autograd.gradgradcheck(apply_spectral, (x[:1].detach().requires_grad_(), response))


def test_gradcheck_beyond_matrix_products() -> None:
    size = (1, 65)
    x = random(1, 1, *size).requires_grad_()
    assert torch.autograd.gradcheck(apply_spectral, (x, random_response(size, 1, 1).requires_grad_()))


def test_gradcheck_of_the_weight() -> None:
    x, weight = random(1, 2, 2, 3), random(2, 2, 3, 3, seed=1).requires_grad_()
    for coefficients in (None, (1.0, 0.9, 0.4)):
        assert torch.autograd.gradcheck(
            lambda w, c=coefficients: apply_spectral(x, spectral_exponential(skew_filter(w), (2, 3), coefficients=c)),
            weight,
        )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("change", [torch.clone, torch.zeros_like, rank_one], ids=["random", "zero", "rank one"])
def test_the_exponential_is_that_of_the_dense_matrix(
    change: object, scale: float, kernel: tuple[int, int], groups: int
) -> None:
    assert callable(change)
    x, weight = random(2, 4, *SIZE), skew_filter(scale * change(random(4, 4 // groups, *kernel, seed=1)), groups)
    result = apply_spectral(x, spectral_exponential(weight, SIZE, groups))
    # Rounding of J is amplified by its norm.
    expected, atol = expected_exponential(x, weight, groups), 1e-12 * max(1, scale)
    np.testing.assert_allclose(to_numpy(result.flatten(1)), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_matrix_of_the_exponential_is_unitary(scale: float) -> None:
    response = spectral_exponential(skew_filter(scale * random(4, 2, 3, 3), groups=2), SIZE, groups=2)
    assert response.shape == (3, 3, 2, 2, 2)
    identity = np.broadcast_to(np.eye(2), response.shape)
    # Scaling and squaring doubles the rounding as often as it halves the norm.
    product = (response @ response.mH).resolve_conj().numpy()
    np.testing.assert_allclose(product, identity, rtol=0, atol=1e-13 * max(1, scale))


def test_a_polynomial_is_that_of_the_dense_matrix() -> None:
    coefficients = (1.0, 0.9, 0.5, 0.2)
    x, weight = random(2, 4, *SIZE), skew_filter(random(4, 2, 3, 3, seed=1), groups=2)
    matrix = convolution_matrix(weight, *SIZE, 2, "circular")
    polynomial = sum(c * np.linalg.matrix_power(matrix, power) for power, c in enumerate(coefficients))
    result = apply_spectral(x, spectral_exponential(weight, SIZE, 2, coefficients=coefficients))
    np.testing.assert_allclose(to_numpy(result.flatten(1)), to_numpy(x.flatten(1)) @ polynomial.T, rtol=0, atol=1e-10)


def test_single_precision_stays_single() -> None:
    x, weight = random(2, 4, *SIZE), skew_filter(random(4, 4, 3, 3, seed=1))
    result = apply_spectral(x.float(), spectral_exponential(weight.float(), SIZE))
    assert result.dtype is torch.float32
    np.testing.assert_allclose(to_numpy(result.flatten(1)), expected_exponential(x, weight), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [SIZE, (9, 8)])
def test_an_empty_batch_has_zero_gradients(size: tuple[int, int]) -> None:
    x, response = random(0, 4, *size).requires_grad_(), random_response(size, 2, 4).requires_grad_()
    result = apply_spectral(x, response)
    assert result.shape == (0, 4, *size)
    gradients = torch.autograd.grad(result.sum(), (x, response))
    assert [gradient.shape for gradient in gradients] == [x.shape, response.shape]
    assert not gradients[1].any()
