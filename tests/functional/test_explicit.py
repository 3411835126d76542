"""Polynomials by plain products: equal to the faster ones, by matrices whose entries are filter taps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lipnet.functional import skew_filter, skew_polynomial
from lipnet.functional.explicit import explicit_length, explicit_matrices, explicit_polynomial
from tests.oracles import convolution_matrix

COEFFICIENTS = (1.0, 1.0, 0.5, 0.2, 1.0)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 2), (1, 4), (3, 4)])
@pytest.mark.parametrize(("groups", "channels"), [(1, None), (1, 3), (2, 5)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (3, 1)])
def test_the_polynomial_is_the_same(
    kernel: tuple[int, int], groups: int, channels: int | None, size: tuple[int, int], mode: str
) -> None:
    torch.manual_seed(0)
    weight = skew_filter(torch.randn(6, 6 // groups, *kernel, dtype=torch.float64), groups)
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    for coefficients in (COEFFICIENTS, COEFFICIENTS[:2], (0.5, 2.0)):
        expected = skew_polynomial(x, weight, coefficients, groups, mode, channels=channels)
        explicit = explicit_polynomial(x, weight, coefficients, groups, mode, channels=channels)
        torch.testing.assert_close(explicit, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 2), (4, 1)])
def test_matrices_hold_only_taps_and_zeros(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    matrices = explicit_matrices(weight, size, 2, "zeros")
    assert matrices is not None
    whole = convolution_matrix(weight, *size, 2)
    half = len(whole) // 2
    np.testing.assert_array_equal(matrices.numpy(), [whole[:half, :half], whole[half:, half:]])
    assert explicit_length(weight, size, "zeros") == matrices.shape[-1]


@pytest.mark.parametrize(
    ("kernel", "size", "mode", "length"),
    [((3, 3), (2, 2), "circular", 18), ((3, 3), (2, 3), "zeros", 18), ((1, 1), (2, 2), "zeros", 2)],
)
def test_elsewhere_there_is_no_matrix(kernel: tuple[int, int], size: tuple[int, int], mode: str, length: int) -> None:
    """Circular maps would need sums of taps as entries; larger maps and single taps need no matrix."""
    weight = torch.randn(4, 2, *kernel, dtype=torch.float64)
    assert explicit_matrices(weight, size, 2, mode) is None
    assert explicit_length(weight, size, mode) == length


def test_gradients_flow_to_the_maps() -> None:
    weight = skew_filter(torch.randn(2, 2, 3, 3, dtype=torch.float64))
    for size in ((2, 2), (3, 3)):
        x = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: explicit_polynomial(x, weight, COEFFICIENTS), x)
