"""Maps to orthogonal matrices against their formulas in NumPy and SciPy, for any scale, and their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipnet.functional.orthogonal_matrices import (
    accretive_inverse,
    block_reflector,
    cayley,
    orthogonal_cayley,
    polar,
    polar_factor,
    polar_retraction,
)

Array = NDArray[np.complex128]
DTYPES = [torch.float64, torch.complex128]
SHAPES = [(5, 5), (6, 3), (3, 6), (1, 1), (4, 1)]
SCALES = [1e-3, 1.0, 1e3]


def noise(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def star(matrix: Array) -> Array:
    return matrix.conj().T


def cayley_by_formula(matrix: Array) -> Array:
    m, n = matrix.shape
    if m < n:
        return star(cayley_by_formula(star(matrix)))
    upper, lower = matrix[:n], matrix[n:]
    a = upper - star(upper) + star(lower) @ lower
    inverse = np.linalg.inv(np.eye(n) + a)
    return np.concatenate([inverse @ (np.eye(n) - a), -2 * lower @ inverse])


def reflector_by_formula(matrix: Array, damping: float) -> Array:
    gram = star(matrix) @ matrix
    damped = gram + damping * np.diag(gram).mean() * np.eye(len(gram))
    return np.eye(len(matrix)) - 2 * matrix @ np.linalg.solve(damped, star(matrix))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cayley_is_the_formula(dtype: torch.dtype, shape: tuple[int, int], scale: float) -> None:
    matrices = scale * noise(dtype, 2, *shape)
    expected = [cayley_by_formula(matrix) for matrix in matrices.numpy()]
    # The Cholesky decomposition is of the square of the matrix: it loses twice as many digits.
    np.testing.assert_allclose(cayley(matrices).resolve_conj().numpy(), expected, rtol=0, atol=1e-13 * max(1, scale**2))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_polar_is_the_polar_factor(dtype: torch.dtype, shape: tuple[int, int], scale: float) -> None:
    matrices = scale * noise(dtype, 2, *shape)
    expected = [scipy.linalg.polar(matrix)[0] for matrix in matrices.numpy()]
    np.testing.assert_allclose(polar(matrices, 30).resolve_conj().numpy(), expected, rtol=0, atol=1e-12)
    if not dtype.is_complex:
        np.testing.assert_allclose(polar_factor(matrices, 15).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10, 30])
def test_polar_is_a_contraction_after_any_number_of_steps(steps: int) -> None:
    values = torch.logspace(0, -9, 5, dtype=torch.float64)
    left, right = torch.linalg.qr(noise(torch.float64, 2, 5, 5)).Q
    result = polar(left @ values.diag() @ right.mT, steps)
    expected = values / values.pow(4).sum() ** 0.25
    for _ in range(steps):
        expected = expected * (3 - expected**2) / 2
    np.testing.assert_allclose(np.linalg.svd(result.numpy())[1], expected.numpy(), rtol=1e-6, atol=1e-12)
    assert expected.max() <= 1


@pytest.mark.parametrize("damping", [1e-5, 0.3])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(5, 5), (6, 3), (1, 1), (4, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_block_reflector_is_the_formula(
    dtype: torch.dtype, shape: tuple[int, int], scale: float, damping: float
) -> None:
    matrices = scale * noise(dtype, 2, *shape)
    expected = [reflector_by_formula(matrix, damping) for matrix in matrices.numpy()]
    np.testing.assert_allclose(block_reflector(matrices, damping).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("function", [cayley, lambda w: polar(w, 30), block_reflector], ids=["cayley", "polar", "bro"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("kind", ["zero", "rank one", "tiny", "huge"])
def test_degenerate_matrices_stay_contractions(
    kind: str, dtype: torch.dtype, function: Callable[[Tensor], Tensor]
) -> None:
    matrices = noise(dtype, 2, 6, 4)
    if kind == "rank one":
        matrices = matrices[..., :1] * matrices[..., :1, :]
    matrices = matrices * {"zero": 0.0, "tiny": 1e-30, "huge": 1e3}.get(kind, 1.0)
    result = function(matrices)
    assert result.isfinite().all()
    assert np.linalg.norm(result.numpy(), ord=2, axis=(-2, -1)).max() <= (1.5 if kind == "huge" else 1 + 1e-2)


@pytest.mark.parametrize("function", [cayley, lambda w: polar(w, 30), block_reflector], ids=["cayley", "polar", "bro"])
def test_matrices_that_are_not_finite_give_nan_without_an_error(function: Callable[[Tensor], Tensor]) -> None:
    matrices = noise(torch.float64, 2, 6, 4)
    matrices[0, 1, 1] = torch.inf
    result = function(matrices)
    assert not result[0].isfinite().all()
    assert result[1].isfinite().all()


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [cayley, lambda w: polar(w, 4)], ids=["cayley", "polar"])
def test_gradcheck(function: Callable[[Tensor], Tensor], dtype: torch.dtype, shape: tuple[int, int]) -> None:
    matrices = noise(dtype, 2, *shape).requires_grad_()
    assert torch.autograd.gradcheck(function, matrices)
    if shape == (3, 3):
        assert torch.autograd.gradgradcheck(function, matrices[:1].detach().requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradcheck_of_the_reflector(dtype: torch.dtype) -> None:
    assert torch.autograd.gradcheck(block_reflector, noise(dtype, 2, 4, 2).requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES)
def test_accretive_matrices_are_inverted(dtype: torch.dtype) -> None:
    matrices = noise(dtype, 2, 5, 5)
    skew, gram = matrices - matrices.mH, matrices.mH @ matrices
    identity = torch.eye(5, dtype=dtype)
    for matrix, unit in ((identity + skew, True), (identity + skew + gram, False)):
        np.testing.assert_allclose(accretive_inverse(matrix, unit).numpy(), np.linalg.inv(matrix.numpy()), atol=1e-12)


def test_batched_gradients() -> None:
    matrices = noise(torch.float64, 3, 2, 2)
    jacobians = torch.func.vmap(torch.func.jacrev(cayley))(matrices)
    for jacobian, matrix in zip(jacobians, matrices, strict=True):
        expected = torch.autograd.functional.jacobian(cayley, matrix)
        torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_the_transform_is_that_of_the_skew_part(scale: float) -> None:
    free = scale * noise(torch.float64, 2, 5, 5)
    skew = (free - free.mT).numpy()
    expected = (np.eye(5) - skew) @ np.linalg.inv(np.eye(5) + skew)
    np.testing.assert_allclose(orthogonal_cayley(free), expected, atol=1e-7)


def test_gradients_of_the_transform() -> None:
    assert torch.autograd.gradcheck(orthogonal_cayley, (noise(torch.float64, 2, 3, 3).requires_grad_(),))


def test_the_retraction_finds_the_polar_factor() -> None:
    near = orthogonal_cayley(noise(torch.float64, 6, 6)) + 0.01 * torch.randn(6, 6, dtype=torch.float64)
    polar, _ = scipy.linalg.polar(near.numpy())
    np.testing.assert_allclose(polar_retraction(near), polar, atol=1e-12)
