"""Convolutions on maps of at most 4 x 4 pixels with fewer products of channels than pairs of pixels.

With zero padding a 3-tap convolution of two pixels is y_0 = t_0 x_0 + t_1 x_1, y_1 = t_-1 x_0 + t_0 x_1. Three products
are enough:

    y_0 = t_0 (x_0 + x_1) + (t_1 - t_0) x_1,    y_1 = t_0 (x_0 + x_1) + (t_-1 - t_0) x_0,

and with circular padding two, for x_0 + x_1 and x_0 - x_1. With four pixels, the outputs are coefficients of the
product of the polynomials sum_k x_k z^k and t_1 + t_0 z + t_-1 z^2, which has degree 5: the values of both at five
points, and their leading coefficients, give them by six products instead of ten. In two dimensions the forms nest: nine
or four products instead of sixteen on 2 x 2 pixels, 36 instead of 100 on 4 x 4. Each is a matrix product of channels,
for the whole batch.

Source: bilinear algorithms for Toeplitz and circulant products and, for four pixels, Toom-Cook: Winograd, "Arithmetic
Complexity of Computations", 1980.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

# Points at which polynomials are multiplied, besides infinity. In float32 a product is then within 1e-6 of its size,
# with the usual points 0, 1, -1, 2, -2 within 2e-6, summed directly within 2e-7 (64 channels).
_POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))


class BilinearForm(NamedTuple):
    """y = output @ ((taps @ filter) * (input @ x)): r products for kh kw taps and maps of P pixels.

    Attributes:
        input: (r, P).
        taps: (r, kh kw).
        output: (P, r).
    """

    input: Tensor
    taps: Tensor
    output: Tensor

    def to(self, like: Tensor) -> "BilinearForm":
        return BilinearForm(*(matrix.to(like.device, like.dtype) for matrix in self))


def has_bilinear_form(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str) -> bool:
    """Whether there is a form: 1, 2 or, for three taps and zero padding, 4 pixels in each dimension."""
    return all(
        length in (1, 2) or (length == 4 and taps == 3 and padding_mode == "zeros")
        for length, taps in zip(size, kernel_size, strict=True)
    )


@lru_cache(maxsize=64)
def bilinear_form(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str) -> BilinearForm:
    """The form of the 'same' convolution with a kernel on maps of one size, in float64.

    Args:
        size: H and W, for which `has_bilinear_form`.
        kernel_size: kh and kw, odd.
        padding_mode: ``"zeros"`` or ``"circular"``.

    Example:
        >>> form = bilinear_form((1, 2), (1, 3), "zeros")
        >>> x, taps = torch.tensor([1.0, 10.0]).double(), torch.tensor([5.0, 2.0, 3.0]).double()
        >>> form.output @ ((form.taps @ taps) * (form.input @ x))
        tensor([32., 25.], dtype=torch.float64)
    """
    rows, columns = (_line(*each, padding_mode) for each in zip(size, kernel_size, strict=True))
    return BilinearForm(*(torch.kron(row, column) for row, column in zip(rows, columns, strict=True)))


def _line(length: int, taps: int, padding_mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """The form in one dimension."""
    offsets = torch.arange(taps) - taps // 2
    if length == 1:
        reaching = offsets == 0 if padding_mode == "zeros" else torch.ones(taps)
        return torch.ones(1, 1).double(), reaching.double().unsqueeze(0), torch.ones(1, 1).double()
    if padding_mode == "circular":
        both = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
        return both, torch.stack([torch.ones(taps), (-1.0) ** offsets]).double(), both / 2
    if length == 4:
        return _polynomials_product()
    own, following, preceding = ((offsets == offset).double() for offset in (0, 1, -1))
    return (
        torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).double(),
        torch.stack([own, following - own, preceding - own]),
        torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).double(),
    )


def _polynomials_product() -> tuple[Tensor, Tensor, Tensor]:
    """The form for four pixels and three taps."""
    # The product is sum_i (value at point i) L_i(z) + (leading coefficient) prod_j (z - point j) with Lagrange's L_i.
    columns = []
    for point in _POINTS:
        others = [other for other in _POINTS if other != point]
        height = prod(point - other for other in others)
        columns.append([coefficient / height for coefficient in _with_roots(others)] + [Fraction(0)])
    columns.append(_with_roots(_POINTS))
    # The first and the last coefficient belong to pixels beside the map.
    middle = [[float(column[power]) for column in columns] for power in range(1, 5)]
    return _values(4), _values(3).flip(1), torch.tensor(middle, dtype=torch.float64)


def _values(coefficients: int) -> Tensor:
    """What takes a polynomial's coefficients, lowest first, to its values and the leading one."""
    rows = [[float(point**power) for power in range(coefficients)] for point in _POINTS]
    return torch.tensor([*rows, [0.0] * (coefficients - 1) + [1.0]], dtype=torch.float64)


def _with_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of prod_j (z - root j), lowest first."""
    polynomial = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *polynomial], [*(-root * each for each in polynomial), Fraction(0)]
        polynomial = [one + other for one, other in zip(shifted, scaled, strict=True)]
    return polynomial
