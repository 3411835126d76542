"""The 'same' convolution against its dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.functional import PADDING_MODES, same_convolution
from tests.oracles import convolution_matrix, to_numpy


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (3, 5)])
@pytest.mark.parametrize("size", [(4, 3), (3, 5), (6, 6)])
def test_against_the_dense_matrix(
    size: tuple[int, int], kernel: tuple[int, int], groups: int, padding_mode: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    y = same_convolution(x, weight, groups, padding_mode)
    assert y.shape == x.shape
    expected = to_numpy(x.flatten(1)) @ convolution_matrix(weight, *size, groups, padding_mode).T
    np.testing.assert_allclose(to_numpy(y.flatten(1)), expected, rtol=0, atol=1e-13)


def test_zero_padding_is_the_default() -> None:
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    assert same_convolution(x, weight)[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert same_convolution(x, weight, padding_mode="circular")[0, 0].tolist() == [[9] * 3] * 3


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "valid", ""])
def test_padding_that_breaks_the_adjoint_is_refused(padding_mode: str) -> None:
    with pytest.raises(ValueError, match=rf"'zeros', 'circular'.*received '{padding_mode}'"):
        same_convolution(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3), padding_mode=padding_mode)
