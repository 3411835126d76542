"""Independent float64 oracles: dense matrices of what lipnet computes without ever forming a matrix.

Everything but `dense_jacobian` is NumPy and SciPy, written from the definitions, and shares no code with lipnet. Maps
(c, H, W) are flattened in this order; a matrix acts on columns.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import factorial

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


def dense_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Matrix:
    """The Jacobian (outputs, inputs) at x by autograd.

    It calls the function once, because a layer in training changes its buffers at each call.
    """
    x = x.detach().clone().requires_grad_()
    y = function(x).flatten()
    directions = torch.eye(y.numel(), dtype=y.dtype)
    (rows,) = torch.autograd.grad(y, x, directions, is_grads_batched=True)
    return rows.flatten(1).double().numpy()


def spectral_norm(matrix: Matrix) -> float:
    """The largest singular value."""
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def to_numpy(tensor: Tensor) -> Matrix:
    return np.asarray(tensor.detach().double().cpu(), dtype=np.float64)


def ungrouped_filter(weight: Tensor, groups: int = 1) -> Matrix:
    """The block-diagonal filter (c_out, c_in, kh, kw) of a grouped convolution's (c_out, c_in / g, kh, kw)."""
    grouped = to_numpy(weight)
    outputs, inputs = grouped.shape[0] // groups, grouped.shape[1]
    full = np.zeros((grouped.shape[0], inputs * groups, *grouped.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        full[rows, group * inputs : (group + 1) * inputs] = grouped[rows]
    return full


def convolution_matrix(weight: Tensor, height: int, width: int, groups: int = 1, padding_mode: str = "zeros") -> Matrix:
    """Return the matrix of a 'same' convolution with stride 1 and zero or circular padding.

    y[o, u, v] = sum_{i, a, b} w[o, i, a, b] x[i, u + a - floor(kh/2), v + b - floor(kw/2)].
    """
    full = ungrouped_filter(weight, groups)
    outputs, inputs, rows, columns = full.shape
    matrix = np.zeros((outputs, height, width, inputs, height, width))
    for u, v, a, b in product(range(height), range(width), range(rows), range(columns)):
        source = (u + a - rows // 2, v + b - columns // 2)
        inside = 0 <= source[0] < height and 0 <= source[1] < width
        if inside or padding_mode == "circular":
            matrix[:, u, v, :, source[0] % height, source[1] % width] += full[:, :, a, b]
    return matrix.reshape(outputs * height * width, inputs * height * width)


def exponential(matrix: Matrix) -> Matrix:
    """exp(matrix)."""
    return np.asarray(scipy.linalg.expm(matrix), dtype=np.float64)


def truncated_exponential(matrix: Matrix, terms: int) -> Matrix:
    """sum_{j <= terms} matrix^j / j!, term by term."""
    powers = [np.linalg.matrix_power(matrix, degree) / factorial(degree) for degree in range(terms + 1)]
    return np.asarray(np.sum(powers, axis=0), dtype=np.float64)


def truncation_error(norm: float, terms: int) -> float:
    """Taylor's bound on |exp(i t) - sum_{j <= terms} (i t)^j / j!| over |t| <= norm."""
    return norm ** (terms + 1) / factorial(terms + 1)


def both(stride: int | tuple[int, int]) -> tuple[int, int]:
    """Return the strides of rows and columns."""
    return (stride, stride) if isinstance(stride, int) else stride


def space_to_depth_matrix(channels: int, height: int, width: int, stride: int | tuple[int, int]) -> Matrix:
    """The permutation y[c s t + i t + j, u, v] = x[c, u s + i, v t + j] of maps (channels, height, width)."""
    s, t = both(stride)
    shape = (channels, s, t, height // s, width // t)
    matrix = np.zeros((*shape, channels, height, width))
    for c, i, j, u, v in product(*map(range, shape)):
        matrix[c, i, j, u, v, c, u * s + i, v * t + j] = 1
    size = channels * height * width
    return matrix.reshape(size, size)


def first_channels_matrix(outputs: int, inputs: int, pixels: int) -> Matrix:
    """Keep the first channels, or append channels of zeros, on maps of so many pixels."""
    return np.eye(outputs * pixels, inputs * pixels)


def permutation_matrix(places: list[int]) -> Matrix:
    """The matrix that sends entry i to place places[i]."""
    matrix = np.zeros((len(places), len(places)))
    for source, place in enumerate(places):
        matrix[place, source] = 1
    return matrix


def shuffle_places(channels: int, groups: int, paired: bool) -> list[int]:
    """sigma of the two shuffles' formulas, number by number."""
    if paired:
        return [((i // 2) % groups) * channels // groups + 2 * (i // (2 * groups)) + i % 2 for i in range(channels)]
    return [(i % groups) * channels // groups + i // groups for i in range(channels)]


def channel_matrix(matrix: Matrix, pixels: int) -> Matrix:
    """A map of channels, the same at each of so many pixels."""
    return np.asarray(np.kron(matrix, np.eye(pixels)), dtype=np.float64)


def fantastic_four(weight: Tensor, groups: int = 1) -> list[list[Matrix]]:
    """Return each group's four reshaped filters, indexed (o; i a b), (o a; i b), (o b; i a) and (i; o a b)."""
    matrices = []
    for filter_ in np.split(to_numpy(weight), groups):
        outputs, inputs, rows, columns = filter_.shape
        matrices.append(
            [
                filter_.reshape(outputs, inputs * rows * columns),
                filter_.transpose(0, 2, 1, 3).reshape(outputs * rows, inputs * columns),
                filter_.transpose(0, 3, 1, 2).reshape(outputs * columns, inputs * rows),
                filter_.transpose(1, 0, 2, 3).reshape(inputs, outputs * rows * columns),
            ]
        )
    return matrices


def symbol_supremum(weight: Tensor, groups: int = 1, points: int = 128) -> float:
    """The largest ||sum_{a, b} w[:, :, a, b] e^{-i (a p + b q)}|| on a fine grid of frequencies (p, q)."""
    full = ungrouped_filter(weight, groups)
    frequencies = 2 * np.pi * np.arange(points) / points
    down = np.exp(-1j * np.outer(frequencies, np.arange(full.shape[2])))
    right = np.exp(-1j * np.outer(frequencies, np.arange(full.shape[3])))
    responses = np.einsum("oiab,pa,qb->pqoi", full, down, right, optimize=True)
    return float(np.linalg.svd(responses, compute_uv=False).max())


def skew_orthogonal_matrix(
    skew: Tensor,
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    stride: int | tuple[int, int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    function: Callable[[Matrix], Matrix] = exponential,
) -> Matrix:
    """The matrix of a skew-orthogonal convolution with this skew filter, on maps (in_channels, *size).

    Space to depth, channels of zeros appended up to the filter's, the function (by default exp) of the convolution's
    matrix, and the first out_channels channels.
    """
    s, t = both(stride)
    height, width = size[0] // s, size[1] // t
    pixels, channels = height * width, skew.shape[0]
    unshuffle = space_to_depth_matrix(in_channels, *size, stride)
    pad = first_channels_matrix(channels, in_channels * s * t, pixels)
    keep = first_channels_matrix(out_channels, channels, pixels)
    jacobian = convolution_matrix(skew, height, width, groups, padding_mode)
    return keep @ function(jacobian) @ pad @ unshuffle
