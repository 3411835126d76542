"""Bilinear forms of convolutions on at most 2 x 2 pixels against the convolutions' dense matrices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from lipnet.functional import PADDING_MODES
from lipnet.functional.short_maps import bilinear_form
from tests.oracles import convolution_matrix, to_numpy


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (3, 5), (5, 5)])
def test_forms_are_the_convolution(kernel: tuple[int, int], padding_mode: str) -> None:
    weight = torch.randn(1, 1, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in product((1, 2), repeat=2):
        form = bilinear_form(size, kernel, padding_mode)
        matrix = form.output @ torch.diag(form.taps @ weight.flatten()) @ form.input
        expected = convolution_matrix(weight, *size, padding_mode=padding_mode)
        np.testing.assert_allclose(to_numpy(matrix), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("padding_mode", "products"), [("zeros", 3), ("circular", 2)])
def test_the_number_of_products(padding_mode: str, products: int) -> None:
    assert len(bilinear_form((1, 1), (3, 3), padding_mode).taps) == 1
    assert len(bilinear_form((1, 2), (3, 3), padding_mode).taps) == products
    assert len(bilinear_form((2, 2), (3, 3), padding_mode).taps) == products**2


def test_forms_in_another_dtype() -> None:
    form = bilinear_form((2, 2), (3, 3), "zeros").to(torch.zeros(1, dtype=torch.float32))
    assert {matrix.dtype for matrix in form} == {torch.float32}
