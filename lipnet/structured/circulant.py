"""Circulant, skew-circulant and Toeplitz matrices: fast products by the Fourier transform, and the dense matrices.

Vectors lie along the last dimension; all dimensions before it broadcast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def circulant_product(column: Tensor, x: Tensor) -> Tensor:
    """Return C x with C[i, j] = c[(i - j) mod n], for the first column c (..., n) and vectors x (..., n).

    Example:
        >>> circulant_product(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])).round(decimals=4).tolist()
        [3.0, 1.0, 2.0]
    """
    return _cyclic_convolution(column, x, x.shape[-1])


def skew_circulant_product(column: Tensor, x: Tensor) -> Tensor:
    """Return S x with S[i, j] = c[i - j] for i >= j and -c[n + i - j] for i < j, for c (..., n) and x (..., n).

    This multiplies polynomials modulo z^n + 1: the upper half of the product, of degree below 2n, comes back negated.

    Example:
        >>> product = skew_circulant_product(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 2.0, 3.0]))
        >>> product.round(decimals=4).tolist()
        [-3.0, 1.0, 2.0]
    """
    size = x.shape[-1]
    product = _cyclic_convolution(column, x, 2 * size)
    return product[..., :size] - product[..., size:]


def toeplitz_product(diagonals: Tensor, x: Tensor) -> Tensor:
    """Return T x (..., m) with T[i, j] = d[i - j + n - 1].

    Args:
        diagonals: d (..., m + n - 1), beginning with the upper right corner.
        x: vectors (..., n).

    Example:
        >>> toeplitz_product(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 1.0])).round(decimals=4).tolist()
        [5.0, 3.0]
    """
    # The cyclic convolution wraps around into its first n - 1 entries only, which are dropped.
    product = _cyclic_convolution(diagonals, x, _fast_length(diagonals.shape[-1]))
    return product[..., x.shape[-1] - 1 : diagonals.shape[-1]]


def circulant_matrix(column: Tensor, rows: int, columns: int) -> Tensor:
    """Return the upper left corner (rows, columns) of the matrix in `circulant_product`, from its first column (n,)."""
    return toeplitz_matrix(torch.cat([_above_diagonal(column, columns), column[:rows]]), rows, columns)


def skew_circulant_matrix(column: Tensor, rows: int, columns: int) -> Tensor:
    """Return the upper left corner (rows, columns) of the matrix in `skew_circulant_product`, from its first column."""
    return toeplitz_matrix(torch.cat([-_above_diagonal(column, columns), column[:rows]]), rows, columns)


def toeplitz_matrix(diagonals: Tensor, rows: int, columns: int) -> Tensor:
    """Return the matrix T (rows, columns) in `toeplitz_product`, from its rows + columns - 1 diagonals."""
    # Row i of the windows of the reversed diagonals begins with d[m + n - 2 - i]: T upside down.
    return diagonals.flip(0).unfold(0, columns, 1).flip(0)


def _cyclic_convolution(a: Tensor, b: Tensor, length: int) -> Tensor:
    """Return the convolution modulo ``length`` of vectors no longer than that."""
    # Some releases of torch cannot transform an empty batch.
    if b.numel() == 0:
        return a[..., :1] * F.pad(b, (0, length - b.shape[-1]))
    product: Tensor = torch.fft.irfft(torch.fft.rfft(a, n=length) * torch.fft.rfft(b, n=length), n=length)
    return product


def _fast_length(least: int) -> int:
    """Return the next length 2^k or 3 2^k. A transform of prime length, such as 1531, takes several times as long."""
    power: int = 1 << (least - 1).bit_length()
    return 3 * power // 4 if least <= 3 * power // 4 else power


def _above_diagonal(column: Tensor, columns: int) -> Tensor:
    """Return the diagonals above the main one in a circulant matrix, beginning with the upper right corner."""
    return column[len(column) - columns + 1 :]
