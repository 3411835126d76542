"""Norm bounds of matrices are bounds, and contractions are proved to be contractions."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lipnet.functional.contractions import (
    contraction_margin,
    contractions,
    norm_of_matrices,
    orthogonal_contractions,
    orthogonal_norm_bound,
)
from lipnet.functional.orthogonal_matrices import orthogonal_cayley

DTYPES = [torch.float64, torch.complex128]


def orthogonal(dtype: torch.dtype, m: int = 6, n: int = 6) -> Tensor:
    torch.manual_seed(0)
    factor = torch.linalg.qr(torch.randn(3, max(m, n), min(m, n), dtype=dtype)).Q
    return factor if m >= n else factor.mH.contiguous()


def true_norm(matrices: Tensor) -> float:
    wide = torch.complex128 if matrices.is_complex() else torch.float64
    return float(np.linalg.norm(matrices.to(wide).numpy(), ord=2, axis=(-2, -1)).max())


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 1 + 1e-7, 1e3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 6), (6, 3), (3, 6), (1, 1)])
def test_the_bound_holds_and_is_tight(shape: tuple[int, int], dtype: torch.dtype, scale: float) -> None:
    matrices = orthogonal(dtype, *shape) * scale
    bound = norm_of_matrices(matrices)
    assert true_norm(matrices) * (1 - 1e-15) <= bound <= max(1.0, scale * (1 + 2e-10))


@pytest.mark.parametrize("change", ["zero", "rank one", "one of three"])
def test_the_bound_of_singular_matrices(change: str) -> None:
    matrices = torch.randn(3, 5, 5, dtype=torch.float64)
    if change == "zero":
        matrices.zero_()
    elif change == "rank one":
        matrices = matrices[..., :1] * matrices[..., :1, :]
    else:
        matrices[1:] *= 1e-3
    bound, norm = norm_of_matrices(matrices), true_norm(matrices)
    assert norm <= bound <= max(1.0, norm * (1 + 1e-9))


@pytest.mark.parametrize("value", [nan, inf])
def test_entries_that_are_not_finite_have_no_bound(value: float) -> None:
    matrices = torch.eye(3).repeat(2, 1, 1)
    matrices[1, 0, 0] = value
    assert norm_of_matrices(matrices) == inf
    assert not contractions(matrices.double(), torch.float32).isfinite().all()


@pytest.mark.parametrize("shape", [(6, 6), (6, 3), (3, 6), (40, 40)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("single", [True, False])
def test_orthogonal_matrices_are_shrunk_by_the_margin_alone(
    single: bool, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    wanted = (torch.complex64 if dtype.is_complex else torch.float32) if single else dtype
    matrices = orthogonal(dtype, *shape)
    result = contractions(matrices, wanted)
    assert result.dtype == wanted
    assert norm_of_matrices(result) == 1.0
    assert 1 - 2 * contraction_margin(matrices, wanted) <= true_norm(result) <= 1
    assert contraction_margin(matrices, wanted) < (1e-6 if single else 1e-10)


@pytest.mark.parametrize("factor", [1 + 1e-6, 3.0, 1e8])
def test_larger_matrices_are_divided_by_their_norm(factor: float) -> None:
    result = contractions(orthogonal(torch.float64) * factor, torch.float32)
    assert 1 - 1e-5 <= true_norm(result) <= 1
    assert norm_of_matrices(result) == 1.0


def test_the_gradient_takes_the_factor_as_a_constant() -> None:
    matrices = orthogonal(torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(contractions(matrices, torch.float64).sum(), matrices)
    torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=0, atol=1e-9)


def test_orthogonal_matrices_that_are_not_finite_have_no_bound() -> None:
    assert orthogonal_norm_bound(orthogonal_cayley(torch.full((4, 4), nan))) == inf
    assert orthogonal_norm_bound(torch.full((4, 4), inf)) == inf


@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("drift", [0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1e-2, 1.0])
def test_the_bound_of_orthogonal_matrices_covers_drift_and_is_tight(size: int, drift: float) -> None:
    free, noise = torch.randn(2, 3, size, size, dtype=torch.float64)
    matrices = orthogonal_cayley(free) + drift * noise
    norm = max(np.linalg.norm(each, 2) for each in matrices.numpy())
    bound = orthogonal_norm_bound(matrices)
    assert norm <= bound
    assert bound - 1 <= 1.5 * (norm - 1) + 2 * size * drift + 1e-9


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_contraction_is_bounded_by_its_norm(share: float) -> None:
    matrix = share * orthogonal_cayley(torch.randn(6, 6, dtype=torch.float64))
    assert share <= orthogonal_norm_bound(matrix) <= share + 1e-9


@pytest.mark.parametrize("n", [1, 2, 17, 64])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float64, torch.float32),
        (torch.float64, torch.bfloat16),
        (torch.float64, torch.float16),
        (torch.complex128, torch.complex64),
        (torch.complex128, torch.complex128),
    ],
)
def test_orthogonal_contractions_have_norms_of_at_most_one_and_close_to_it(
    kind: torch.dtype, dtype: torch.dtype, n: int
) -> None:
    matrices = orthogonal(kind, n, n)
    result = orthogonal_contractions(matrices, dtype)
    assert result.dtype is dtype
    unit = torch.finfo(dtype).eps
    for matrix, original in zip(result.to(kind).numpy(), matrices.numpy(), strict=True):
        singular = scipy.linalg.svdvals(matrix)
        # The decomposition itself is off by some units of double precision.
        assert singular.max() <= 1 + 4 * np.finfo(float).eps
        assert singular.min() >= 1 - 4 * sqrt(n) * unit - 100 * n * n * np.finfo(float).eps
        assert np.abs(matrix - original).max() <= 4 * sqrt(n) * unit + 100 * n * n * np.finfo(float).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "matrix",
    [
        torch.eye(3) * 2,
        torch.eye(3) * 0.5,
        torch.zeros(3, 3),
        torch.diag(torch.tensor([1.0, 1.0, 0.0])),
        torch.tensor([[1.0, 1e-3], [0.0, 1.0]]),
        torch.full((2, 2), nan),
        torch.diag(torch.tensor([1.0, inf])),
    ],
)
def test_matrices_that_are_not_orthogonal_are_refused(matrix: Tensor, dtype: torch.dtype) -> None:
    matrices = torch.stack([torch.eye(len(matrix)), matrix]).double()
    with pytest.raises(ValueError, match=r"matrices of shape \(2, \d, \d\) are not orthogonal"):
        orthogonal_contractions(matrices, dtype)
