"""Convolutions on maps of at most 2 x 2 pixels with fewer products of channels than pairs of pixels.

With zero padding a 3-tap convolution of two pixels is y_0 = t_0 x_0 + t_1 x_1, y_1 = t_-1 x_0 + t_0 x_1. Three products
are enough:

    y_0 = t_0 (x_0 + x_1) + (t_1 - t_0) x_1,    y_1 = t_0 (x_0 + x_1) + (t_-1 - t_0) x_0,

and with circular padding two, for x_0 + x_1 and x_0 - x_1. In two dimensions the forms nest: nine or four products
instead of sixteen. Each is a matrix product of channels, for the whole batch.

Source: bilinear algorithms for Toeplitz and circulant products: Winograd, "Arithmetic Complexity of Computations",
1980.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# Height and width up to which there is a form.
LONGEST = 2


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


@lru_cache(maxsize=64)
def bilinear_form(size: tuple[int, int], kernel_size: tuple[int, int], padding_mode: str) -> BilinearForm:
    """The form of the 'same' convolution with a kernel on maps of one size, in float64.

    Args:
        size: H and W, each 1 or 2.
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
    own, following, preceding = ((offsets == offset).double() for offset in (0, 1, -1))
    return (
        torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).double(),
        torch.stack([own, following - own, preceding - own]),
        torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]).double(),
    )
