"""Bilinear forms of convolutions on at most 8 x 8 pixels, with fewer products of channels than pairs of pixels.

Two pixels: with zero padding, a 3-tap convolution is y_0 = t_0 x_0 + t_1 x_1, y_1 = t_-1 x_0 + t_0 x_1. Three products
are enough:

    y_0 = t_0 (x_0 + x_1) + (t_1 - t_0) x_1,    y_1 = t_0 (x_0 + x_1) + (t_-1 - t_0) x_0.

With circular padding, two are enough, for x_0 + x_1 and x_0 - x_1.

Four pixels: pixels and taps are the polynomials sum_k x_k z^k and t_1 + t_0 z + t_-1 z^2. Their product has degree 5,
so six products give its coefficients: of the values at five points, and of the leading coefficients. The middle four
coefficients belong to the pixels themselves, the outer two to the neighbours.

Eight pixels: two tiles of four, which share the values of the taps.

In two dimensions the forms nest: nine (zero padding) or four (circular) products instead of sixteen on 2 x 2 pixels, 36
instead of 100 on 4 x 4, 144 instead of 484 on 8 x 8. Each is a matrix product of channels, for the whole batch.

Source: bilinear algorithms for Toeplitz and circulant products and, for four pixels, Toom-Cook: Winograd, "Arithmetic
Complexity of Computations", 1980.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.functional.constants import constant

# Points at which the polynomials are evaluated, besides infinity. In float32 with 64 channels, the relative error is
# 1e-6. With the usual points 0, 1, -1, 2, -2, it is 2e-6, and for a direct sum 2e-7.
_POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
_TILE = 4


class BilinearForm(NamedTuple):
    """A convolution y = output ((taps @ filter) * (input x)) with r products, for P pixels in n tiles.

    Attributes:
        input: (r n, P) with the tile as the faster index: one matrix, or two factors, for rows and for columns. For one
            pixel it is the number 1, and there are no factors.
        taps: (r, kh kw), shared by all tiles.
        output: (P, r n), in as many factors as the input.
    """

    input: tuple[Tensor, ...]
    taps: Tensor
    output: tuple[Tensor, ...]


def transform(factors: Sequence[Tensor], columns: Tensor) -> Tensor:
    """Multiply columns (P, N) by the factors of a form's input or output, or by the transposed factors.

    Without factors, the result is the given tensor itself.
    """
    if not factors:
        return columns
    if len(factors) == 1:
        return factors[0] @ columns
    down, across = factors
    height, number = down.shape[1], columns.shape[1]
    rows = torch.bmm(across.expand(height, -1, -1), columns.view(height, across.shape[1], number))
    return (down @ rows.view(height, len(across) * number)).view(len(down) * len(across), number)


def has_bilinear_form(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str) -> bool:
    """Tell whether a form exists: for 1 or 2 pixels in each dimension, or 4 or 8 with three taps and zero padding."""
    return all(
        length in (1, 2) or (length in (4, 8) and taps == 3 and padding_mode == "zeros")
        for length, taps in zip(size, kernel_size, strict=True)
    )


def is_tiled(size: tuple[int, int]) -> bool:
    """Tell whether the form splits maps of this size into tiles, which round more and need more set-up."""
    return max(size) > 2


def bilinear_form(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str, like: Tensor) -> BilinearForm:
    """Return the form of the 'same' convolution for one kernel size and one map size.

    Args:
        size: H and W, accepted by `has_bilinear_form`.
        kernel_size: kh and kw, odd.
        padding_mode: ``"zeros"`` or ``"circular"``.
        like: a tensor of the wanted dtype and device.

    Example:
        >>> x, taps = torch.tensor([1.0, 10.0]).double(), torch.tensor([5.0, 2.0, 3.0]).double()
        >>> form = bilinear_form((1, 2), (1, 3), "zeros", like=x)
        >>> transform(form.output, (form.taps @ taps)[:, None] * transform(form.input, x[:, None])).flatten()
        tensor([32., 25.], dtype=torch.float64)
    """

    def factor(end: str, *dimensions: int) -> Tensor:
        lengths, taps = (tuple(each[dimension] for dimension in dimensions) for each in (size, kernel_size))
        return _factor(end, lengths, taps, padding_mode, dtype=like.dtype, device=like.device)

    parts: list[tuple[int, ...]] = [(0,), (1,)] if max(size) > _TILE else [(0, 1)]
    if size == (1, 1):
        parts = []
    return BilinearForm(
        tuple(factor("input", *dimensions) for dimensions in parts),
        _taps(size, kernel_size, padding_mode, dtype=like.dtype, device=like.device),
        tuple(factor("output", *dimensions) for dimensions in parts),
    )


@constant
def _factor(end: str, lengths: tuple[int, ...], taps: tuple[int, ...], padding_mode: str) -> Tensor:
    """Return the form's "input" or "output" for these dimensions together, in float64."""
    lines = (_line(*each, padding_mode) for each in zip(lengths, taps, strict=True))
    factors: list[Tensor] = [getattr(line, end) for line in lines]
    return reduce(torch.kron, factors)


@constant
def _taps(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str) -> Tensor:
    """Return the form's taps in float64."""
    rows, columns = (_line(*each, padding_mode) for each in zip(size, kernel_size, strict=True))
    # Tiles of rows cannot be the faster index, so each of them has its own products, with the same taps.
    tiles = len(rows.input) // len(rows.taps)
    return torch.kron(rows.taps.repeat_interleave(tiles, dim=0), columns.taps)


class _Line(NamedTuple):
    """A form in one dimension."""

    input: Tensor
    taps: Tensor
    output: Tensor


def _line(length: int, taps: int, padding_mode: str) -> _Line:
    """Return the form for one dimension with this many pixels and taps."""
    offsets = torch.arange(taps) - taps // 2
    if length == 1:
        reaching = offsets == 0 if padding_mode == "zeros" else torch.ones(taps)
        return _Line(torch.ones(1, 1).double(), reaching.double().unsqueeze(0), torch.ones(1, 1).double())
    if padding_mode == "circular":
        both = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
        return _Line(both, torch.stack([torch.ones(taps), (-1.0) ** offsets]).double(), both / 2)
    if length > 2:
        return _tiles(length // _TILE)
    own, following, preceding = ((offsets == offset).double() for offset in (0, 1, -1))
    return _Line(
        torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).double(),
        torch.stack([own, following - own, preceding - own]),
        torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).double(),
    )


def _tiles(count: int) -> _Line:
    """Return the form for tiles of four pixels and three taps: polynomial products, added where they overlap."""
    # The product is sum_i (value at point i) L_i(z) + (leading coefficient) prod_j (z - point j), with Lagrange's L_i.
    columns = []
    for point in _POINTS:
        others = [other for other in _POINTS if other != point]
        scale = prod(point - other for other in others)
        columns.append([coefficient / scale for coefficient in _with_roots(others)] + [Fraction(0)])
    columns.append(_with_roots(_POINTS))
    coefficients = torch.tensor([[float(each) for each in column] for column in columns], dtype=torch.float64)
    # The first coefficient of a tile belongs to the pixel before it, the last to the one after it.
    spread = torch.zeros(count * _TILE + 2, len(columns), count, dtype=torch.float64)
    for tile in range(count):
        spread[tile * _TILE : tile * _TILE + _TILE + 2, :, tile] = coefficients.mT
    values = torch.einsum("pk,st->pstk", _values(_TILE), torch.eye(count, dtype=torch.float64))
    return _Line(values.reshape(-1, count * _TILE), _values(3).flip(1), spread[1:-1].reshape(count * _TILE, -1))


def _values(coefficients: int) -> Tensor:
    """Build the matrix that maps coefficients, lowest first, to the values at the points and the leading one."""
    rows = [[float(point**power) for power in range(coefficients)] for point in _POINTS]
    return torch.tensor([*rows, [0.0] * (coefficients - 1) + [1.0]], dtype=torch.float64)


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of prod_j (z - root j), lowest first."""
    polynomial = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *polynomial], [*(-root * each for each in polynomial), Fraction(0)]
        polynomial = [one + other for one, other in zip(shifted, scaled, strict=True)]
    return polynomial
