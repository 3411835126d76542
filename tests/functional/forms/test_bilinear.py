"""Bilinear forms of convolutions on at most 8 x 8 pixels against the convolutions' dense matrices."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from lipnet.functional import PADDING_MODES
from lipnet.functional.forms.bilinear import bilinear_form, has_bilinear_form, transform
from tests.oracles import convolution_matrix, to_numpy

FLOAT64 = torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3), (3, 5), (5, 5)])
def test_forms_are_the_convolution(kernel: tuple[int, int], padding_mode: str) -> None:
    weight = torch.randn(1, 1, *kernel, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in product((1, 2, 4, 8), repeat=2):
        if not has_bilinear_form(size, kernel, padding_mode):
            assert max(size) > 2
            assert padding_mode == "circular" or kernel != (3, 3)
            continue
        form = bilinear_form(size, kernel, padding_mode, FLOAT64)
        columns = transform(form.input, torch.eye(size[0] * size[1]).double())
        factors = (form.taps @ weight.flatten()).repeat_interleave(len(columns) // len(form.taps))
        matrix = transform(form.output, factors[:, None] * columns)
        expected = convolution_matrix(weight, *size, padding_mode=padding_mode)
        np.testing.assert_allclose(to_numpy(matrix), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("padding_mode", "products"), [("zeros", 3), ("circular", 2)])
def test_the_number_of_products(padding_mode: str, products: int) -> None:
    assert len(bilinear_form((1, 1), (3, 3), padding_mode, FLOAT64).taps) == 1
    assert len(bilinear_form((1, 2), (3, 3), padding_mode, FLOAT64).taps) == products
    assert len(bilinear_form((2, 2), (3, 3), padding_mode, FLOAT64).taps) == products**2


def test_tiles_of_four_pixels_take_six_products_a_dimension() -> None:
    assert len(bilinear_form((1, 4), (1, 3), "zeros", FLOAT64).taps) == 6
    assert len(bilinear_form((4, 2), (3, 3), "zeros", FLOAT64).taps) == 18
    assert len(bilinear_form((4, 4), (3, 3), "zeros", FLOAT64).taps) == 36
    tiles = transform(bilinear_form((8, 8), (3, 3), "zeros", FLOAT64).input, torch.eye(64).double())
    assert len(tiles) == 144
    others = [((4, 4), (3, 5), "zeros"), ((4, 4), (3, 3), "circular"), ((3, 2), (3, 3), "zeros")]
    assert not any(has_bilinear_form(*each) for each in others)


def test_rounding_of_a_tile_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 64, 4, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(64, 64, 3, 3, generator=generator, dtype=torch.float64)
    form = bilinear_form((4, 4), (3, 3), "zeros", torch.zeros(1))
    spread = transform(form.input, x.float().flatten(2).permute(2, 0, 1).reshape(16, -1)).view(36, 8, 64)
    products = torch.einsum("rbc,roc->rbo", spread, torch.einsum("rt,oct->roc", form.taps, weight.float().flatten(2)))
    result = transform(form.output, products.flatten(1)).view(16, 8, 64).permute(1, 2, 0).view_as(x)
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    assert (result - expected).norm() <= 1.5e-6 * expected.norm()


def test_forms_in_another_dtype() -> None:
    form = bilinear_form((2, 2), (3, 3), "zeros", torch.zeros(1))
    assert {matrix.dtype for matrix in (*form.input, form.taps, *form.output)} == {torch.float32}
