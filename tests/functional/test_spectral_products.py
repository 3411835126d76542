"""Circular convolutions by products: equal to NumPy's transforms, and within their bound of 300-bit arithmetic."""

from __future__ import annotations

from math import inf

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional.rounding_error import Signal, euclidean_norm
from lipnet.functional.spectral_products import (
    _across,
    _down,
    real_form,
    spectral_products,
    spectral_products_step,
)
from tests import exact_arithmetic

SIZES = [(1, 1), (1, 4), (5, 1), (2, 2), (3, 4), (4, 3), (8, 8), (9, 10)]
FLOAT64 = {"dtype": torch.float64, "device": torch.device("cpu")}


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def responses(size: tuple[int, int], groups: int = 1, out: int = 2, inner: int = 2) -> Tensor:
    """Any complex matrices: not those of a real filter, whose spectrum has symmetries."""
    return noise(size[0], size[1] // 2 + 1, groups, out, inner, dtype=torch.complex128, seed=1)


def filtered(x: Tensor, response: Tensor) -> np.ndarray:
    groups, size = response.shape[2], x.shape[-2:]
    spectrum = np.fft.rfft2(x.numpy()).reshape(len(x), groups, -1, *response.shape[:2])
    product = np.einsum("hwgoi,bgihw->bgohw", response.numpy(), spectrum)
    return np.fft.irfft2(product.reshape(len(x), -1, *response.shape[:2]), s=size)


@pytest.mark.parametrize(("groups", "out"), [(1, 2), (2, 2), (2, 3), (3, 1)])
@pytest.mark.parametrize("size", SIZES)
def test_the_spectrum_is_multiplied_by_the_response(size: tuple[int, int], groups: int, out: int) -> None:
    x, response = noise(3, 2 * groups, *size), responses(size, groups, out)
    result = spectral_products(x, real_form(response))
    np.testing.assert_allclose(result.numpy(), filtered(x, response), rtol=0, atol=1e-13 * x.numel())


def test_gradients_flow_to_the_maps() -> None:
    matrices = real_form(responses((3, 4), 2))
    x = noise(1, 4, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spectral_products(x, matrices), x)


def test_an_empty_batch_has_an_empty_result() -> None:
    assert spectral_products(noise(0, 4, 3, 4), real_form(responses((3, 4), 2, 3))).shape == (0, 6, 3, 4)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 12])
def test_the_transforms_are_isometries(length: int) -> None:
    across, down = _across(length, **FLOAT64), _down(length, **FLOAT64)
    np.testing.assert_allclose((across.T @ across).numpy(), np.eye(length), rtol=0, atol=1e-14)
    np.testing.assert_allclose((down.T @ down).numpy(), np.eye(2 * length), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (3, 4), (8, 6)])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_rounding_is_covered(groups: int, size: tuple[int, int]) -> None:
    x, response = noise(2, 2 * groups, *size), responses(size, groups, 3)
    gain = float(torch.linalg.matrix_norm(response, ord=2).max()) * (1 + 1e-12)
    computed = spectral_products(x, real_form(response))
    for sample, result in zip(x, computed, strict=True):
        step = spectral_products_step(Signal(tuple(sample.shape), euclidean_norm(sample)), response, size, gain)
        with mpmath.workprec(exact_arithmetic.BITS):
            true = exact_arithmetic.circular_filter(exact_arithmetic.exact(sample), response)
            difference = (exact_arithmetic.exact(result) - true).ravel()
            error = mpmath.sqrt((difference * difference).sum())
            assert mpmath.sqrt((true * true).sum()) <= step.norm
        assert error <= step.error < 1e6 * max(error, 1e-17 * step.norm)


def test_the_error_before_is_carried_on_by_the_gain() -> None:
    response = responses((3, 4))
    gain = float(torch.linalg.matrix_norm(response, ord=2).max()) * (1 + 1e-12)
    signal = Signal((2, 3, 4), norm=1.0, error=1e-3)
    step = spectral_products_step(signal, response, (3, 4), gain)
    assert gain <= step.gain <= gain * (1 + 1e-9)
    assert 1e-3 * gain <= signal.after(step, (2, 3, 4)).error <= 1e-3 * gain * (1 + 1e-6)


def test_an_unbounded_operator_has_no_bound() -> None:
    step = spectral_products_step(Signal((2, 3, 4), 1.0), responses((3, 4)), (3, 4), inf)
    assert step.norm == step.gain == step.error == inf
