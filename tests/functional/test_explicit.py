"""Polynomials by plain products: equal to the faster ones, within their rounding bound, by matrices of filter taps."""

from __future__ import annotations

from fractions import Fraction
from math import inf, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from lipnet.functional import polynomial_gain, skew_filter, skew_polynomial
from lipnet.functional.explicit import explicit_length, explicit_matrices, explicit_polynomial, horner_error
from lipnet.functional.rounding_error import UNIT, absolute_filter_norm, euclidean_norm
from tests.oracles import convolution_matrix, spectral_norm

COEFFICIENTS = (1.0, 1.0, 0.5, 0.2, 1.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(("size", "degree"), [((4, 4), 7), ((1, 2), 5), ((5, 4), 16)])
def test_horner_is_covered(size: tuple[int, int], degree: int, mode: str) -> None:
    """Against the polynomial of the dense matrix in rational arithmetic."""
    weight = skew_filter(noise(2, 2, 3, 3)) / 3
    coefficients = [float(c) for c in noise(degree + 1, seed=2)]
    x = noise(1, 2, *size, seed=3)
    computed = explicit_polynomial(x, weight, coefficients, 1, mode).flatten().tolist()
    rows = [[Fraction(v) for v in row] for row in convolution_matrix(weight, *size, 1, mode).tolist()]
    vector = [Fraction(v) for v in x.flatten().tolist()]
    state = [Fraction(0)] * len(vector)
    for c in reversed(coefficients):
        image = [sum((a * b for a, b in zip(row, state, strict=True)), Fraction(0)) for row in rows]
        state = [v + Fraction(c) * w for v, w in zip(image, vector, strict=True)]
    squared = sum((Fraction(a) - b) ** 2 for a, b in zip(computed, state, strict=True))
    bound = horner_error(
        coefficients,
        norm=spectral_norm(convolution_matrix(weight, *size, 1, mode)) * (1 + 1e-12),
        magnitude=absolute_filter_norm(weight),
        length=explicit_length(weight, size, mode),
        size=euclidean_norm(x),
        entries=x.numel(),
    )
    assert Fraction(bound) ** 2 >= squared > 0
    assert bound < 1e4 * sqrt(float(squared))


def test_horner_of_an_unbounded_operator_has_no_bound() -> None:
    assert horner_error((1.0, 1.0), norm=inf, magnitude=1.0, length=1, size=1.0, entries=1) == inf


def test_states_are_bounded_by_the_gains_of_partial_polynomials() -> None:
    """The bound uses the norms of exact states; sums of magnitudes would be larger."""
    settings = {"norm": 3.0, "magnitude": 1e-300, "length": 1, "size": 1.0, "entries": 1}
    coefficients = [1.0, 1.0, 0.5, 1 / 6, 1 / 24]
    bound = horner_error(coefficients, **settings)
    assert bound < 20 * UNIT * 3.0**4 * max(polynomial_gain(coefficients[k:], 3.0) for k in range(4))
