"""Fast Fourier products against matrices of scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lipnet.structured.circulant import (
    circulant_matrix,
    circulant_product,
    skew_circulant_matrix,
    skew_circulant_product,
    toeplitz_matrix,
    toeplitz_product,
)
from tests.oracles import Matrix

SIZES = [1, 2, 3, 8, 13]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skew_circulant(column: Matrix) -> Matrix:
    """Return `scipy.linalg.circulant` with the entries above the diagonal negated."""
    matrix = scipy.linalg.circulant(column)
    return np.asarray(np.tril(matrix) - np.triu(matrix, 1), dtype=np.float64)


@pytest.mark.parametrize("n", SIZES)
def test_square_products_and_matrices(n: int) -> None:
    column, x = random(n), random(4, n, seed=1)
    circulant, skew = scipy.linalg.circulant(column.numpy()), skew_circulant(column.numpy())
    np.testing.assert_allclose(circulant_product(column, x).numpy(), x.numpy() @ circulant.T, atol=1e-13)
    np.testing.assert_allclose(skew_circulant_product(column, x).numpy(), x.numpy() @ skew.T, atol=1e-13)
    for rows, columns in [(n, n), (1, n), (n, 1), (n, (n + 1) // 2), ((n + 1) // 2, n)]:
        corner = np.s_[:rows, :columns]
        np.testing.assert_array_equal(circulant_matrix(column, rows, columns).numpy(), circulant[corner])
        np.testing.assert_array_equal(skew_circulant_matrix(column, rows, columns).numpy(), skew[corner])


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("columns", SIZES)
def test_toeplitz(rows: int, columns: int) -> None:
    diagonals, x = random(rows + columns - 1), random(2, 3, columns, seed=1)
    first_column, first_row = diagonals[columns - 1 :], diagonals[:columns].flip(0)
    expected = scipy.linalg.toeplitz(first_column.numpy(), first_row.numpy())
    np.testing.assert_array_equal(toeplitz_matrix(diagonals, rows, columns).numpy(), expected)
    np.testing.assert_allclose(toeplitz_product(diagonals, x).numpy(), x.numpy() @ expected.T, atol=1e-13)


@pytest.mark.parametrize("product", [circulant_product, skew_circulant_product])
def test_columns_broadcast(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    columns, x = random(3, 5), random(2, 1, 5, seed=1)
    expected = torch.stack([product(column, x[:, 0]) for column in columns], dim=1)
    np.testing.assert_allclose(product(columns, x).numpy(), expected.numpy(), atol=1e-14)


@pytest.mark.parametrize("n", [1, 4, 5])
def test_gradients(n: int) -> None:
    column, x, diagonals = random(n), random(2, n, seed=1), random(n + 2)
    for tensor in (column, x, diagonals):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(circulant_product, (column, x))
    assert torch.autograd.gradcheck(skew_circulant_product, (column, x))
    assert torch.autograd.gradcheck(toeplitz_product, (diagonals, x))
    assert torch.autograd.gradcheck(lambda c: circulant_matrix(c, n, 1), (column,))
    assert torch.autograd.gradcheck(lambda c: skew_circulant_matrix(c, 1, n), (column,))
    assert torch.autograd.gradcheck(lambda d: toeplitz_matrix(d, 3, n), (diagonals,))
