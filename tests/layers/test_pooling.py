"""NormPool2d against NumPy, and its gradient where a window is zero."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from lipnet.certify import lipschitz_bound
from lipnet.layers import NormPool2d
from tests.oracles import dense_jacobian, spectral_norm


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kernel_size", "size"), [(1, (2, 3)), (2, (4, 6)), (3, (3, 9)), (4, (4, 4))])
def test_norms_of_the_windows(kernel_size: int, size: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    pooled = NormPool2d(kernel_size)(x)
    assert pooled.shape == (2, 3, size[0] // kernel_size, size[1] // kernel_size)
    for b, c, u, v in np.ndindex(*pooled.shape):
        rows, columns = (slice(i * kernel_size, (i + 1) * kernel_size) for i in (u, v))
        assert pooled[b, c, u, v].item() == pytest.approx(np.linalg.norm(x[b, c, rows, columns].numpy()), rel=1e-14)


def test_the_bound_is_reached_and_kept() -> None:
    layer = NormPool2d(2).eval()
    assert lipschitz_bound(layer) == 1.0
    jacobian = dense_jacobian(layer, noise(1, 2, 4, 4))
    np.testing.assert_allclose(jacobian @ jacobian.T, np.eye(8), atol=1e-14)
    x, y = noise(500, 2, 4, 4), noise(500, 2, 4, 4, seed=1)
    moved = (layer(x) - layer(y)).flatten(1).norm(dim=1)
    assert (moved <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-15)).all()


def test_the_gradient_at_a_zero_window_is_zero() -> None:
    x = noise(1, 1, 4, 4)
    x[..., :2, :2] = 0
    jacobian = dense_jacobian(NormPool2d(2), x)
    assert np.isfinite(jacobian).all()
    assert not jacobian[0].any()
    assert spectral_norm(jacobian) == pytest.approx(1.0)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(NormPool2d(2), (noise(2, 2, 4, 2).requires_grad_(),))


def test_an_empty_batch_stays_empty() -> None:
    assert NormPool2d(2)(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 3, 1, 1), (3, 4, 4), (1, 3, 4, 4, 4)])
def test_maps_that_the_windows_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=rf"windows of 2 x 2 divide, got \({received}\)"):
        NormPool2d(2)(torch.zeros(shape))


@pytest.mark.parametrize("kernel_size", [0, -1, math.nan, math.inf, 2.5, (2, 2)])
def test_a_kernel_size_that_is_no_positive_integer_is_refused(kernel_size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"kernel_size must be an integer of at least 1, got {re.escape(str(kernel_size))}"
    ):
        NormPool2d(kernel_size)
