"""Closed-form projections of dense matrices (rows, columns) to the nearest additive structure in the Frobenius norm.

All raise ValueError for a matrix that is not floating, two-dimensional and finite. `lipnet.structured.project_gs`
projects onto GS-matrices.
"""

import torch
from torch import Tensor

from lipnet.structured.additive import Kronecker
from lipnet.structured.displacement import Circulant, Toeplitz


def project_circulant(matrix: Tensor) -> Circulant:
    """Return the nearest `Circulant` D: c[k] is the mean of the entries with (i - j) mod n = k, n = max(rows, columns).

    Example:
        >>> project_circulant(torch.tensor([[1.0, 2.0], [4.0, 3.0]])).to_dense().tolist()
        [[2.0, 3.0], [3.0, 2.0]]
    """
    size = max(_checked(matrix).shape)
    nearest = Circulant(*matrix.shape, device=matrix.device, dtype=matrix.dtype)
    nearest.load_state_dict({"column": _means(matrix, _differences(matrix) % size, size)})
    return nearest


def project_toeplitz(matrix: Tensor) -> Toeplitz:
    """Return the nearest `Toeplitz` D: every diagonal is the mean of the matrix's diagonal.

    Example:
        >>> project_toeplitz(torch.tensor([[1.0, 2.0], [4.0, 3.0]])).to_dense().tolist()
        [[2.0, 2.0], [4.0, 2.0]]
    """
    rows, columns = _checked(matrix).shape
    nearest = Toeplitz(rows, columns, device=matrix.device, dtype=matrix.dtype)
    nearest.load_state_dict({"diagonals": _means(matrix, _differences(matrix) + columns - 1, rows + columns - 1)})
    return nearest


def project_kronecker(matrix: Tensor, left_shape: tuple[int, int] | None = None) -> Kronecker:
    """Return the nearest `Kronecker` product A kron B.

    Write each block of the matrix as a row: then A kron B becomes the rank-one matrix vec(A) vec(B)^T. The nearest one
    is the leading term of the singular value decomposition, whose singular value is split evenly between A and B.

    Args:
        matrix: floating, (rows, columns).
        left_shape: shape of A, as in `Kronecker`.

    Source: Van Loan and Pitsianis, "Approximation with Kronecker products", 1993.

    Example:
        >>> A, B = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]])
        >>> project_kronecker(torch.kron(A, B), left_shape=(1, 2)).to_dense().round(decimals=4).tolist()
        [[1.0, 2.0], [3.0, 6.0]]
    """
    rows, columns = _checked(matrix).shape
    nearest = Kronecker(rows, columns, left_shape, device=matrix.device, dtype=matrix.dtype)
    (m, n), (p, q) = nearest.left.shape, nearest.right.shape
    blocks = matrix.detach().double().view(m, p, n, q).transpose(1, 2).reshape(m * n, p * q)
    u, s, vh = torch.linalg.svd(blocks, full_matrices=False)
    root = s[0].sqrt()
    nearest.load_state_dict({"left": root * u[:, 0].view(m, n), "right": root * vh[0].view(p, q)})
    return nearest


def _checked(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or not matrix.is_floating_point():
        raise ValueError(f"matrix must be floating, (rows, columns), got {matrix.dtype}, {tuple(matrix.shape)}")
    if not bool(matrix.isfinite().all()):
        raise ValueError("matrix must be finite, got NaN or infinity")
    return matrix


def _differences(matrix: Tensor) -> Tensor:
    """Return i - j for every entry."""
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
    return rows[:, None] - columns


def _means(matrix: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return the mean of the entries in each class, in float64."""
    sums = torch.zeros(count, dtype=torch.float64, device=matrix.device)
    sums.index_add_(0, classes.flatten(), matrix.detach().double().flatten())
    return sums / torch.bincount(classes.flatten(), minlength=count)
