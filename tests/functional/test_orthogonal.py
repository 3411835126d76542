"""Cayley transform by Cholesky, retraction, and the bound on the norm of nearly orthogonal matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from lipnet.functional.orthogonal import cayley_transform, orthogonal_norm_bound, polar_retraction


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_the_transform_is_that_of_the_skew_part(scale: float) -> None:
    free = scale * noise(2, 5, 5)
    skew = (free - free.mT).numpy()
    expected = (np.eye(5) - skew) @ np.linalg.inv(np.eye(5) + skew)
    np.testing.assert_allclose(cayley_transform(free), expected, atol=1e-7)
    assert orthogonal_norm_bound(cayley_transform(free)) < 1 + 1e-7


def test_gradients_of_the_transform() -> None:
    assert torch.autograd.gradcheck(cayley_transform, (noise(2, 3, 3).requires_grad_(),))


def test_entries_that_are_not_finite_certify_nothing() -> None:
    assert orthogonal_norm_bound(cayley_transform(torch.full((4, 4), math.nan))) == math.inf
    assert orthogonal_norm_bound(torch.full((4, 4), math.inf)) == math.inf


@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("drift", [0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1e-2, 1.0])
def test_the_bound_covers_drift_and_is_tight(size: int, drift: float) -> None:
    matrices = cayley_transform(noise(3, size, size)) + drift * noise(3, size, size, seed=1)
    norm = max(np.linalg.norm(each, 2) for each in matrices.numpy())
    bound = orthogonal_norm_bound(matrices)
    assert norm <= bound
    assert bound - 1 <= 1.5 * (norm - 1) + 2 * size * drift + 1e-9


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_contraction_is_bounded_by_its_norm(share: float) -> None:
    matrix = share * cayley_transform(noise(6, 6))
    assert share <= orthogonal_norm_bound(matrix) <= share + 1e-9


def test_the_retraction_finds_the_polar_factor() -> None:
    near = cayley_transform(noise(6, 6)) + 0.01 * noise(6, 6, seed=1)
    polar, _ = scipy.linalg.polar(near.numpy())
    np.testing.assert_allclose(polar_retraction(near), polar, atol=1e-12)
