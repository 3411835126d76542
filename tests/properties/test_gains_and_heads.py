"""Gains of polynomials against dense sampling, distances and radii against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import factorial

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lipnet.functional import chebyshev_coefficients, polynomial_gain
from lipnet.functional.margins import certified_radius
from lipnet.functional.pairwise import pairwise_certified_radius, row_distances
from lipnet.layers import NormalizedLinear
from tests.properties.cases import BATCH, Fill, Record, drawn, examples, few_and_all, kinds, scales, seeds

GAIN_EXAMPLES, HEAD_EXAMPLES, RADIUS_EXAMPLES = 1000, 70, 70
SAMPLES = np.linspace(0, 1, 2001)


def largest(coefficients: tuple[float, ...], norm: float) -> float:
    """Return max |p(i t)| over samples of [0, norm]."""
    values = np.polynomial.polynomial.polyval(1j * norm * SAMPLES, coefficients)
    return float(np.abs(values).max())


taylor = st.integers(1, 12).map(lambda degree: tuple(1 / factorial(power) for power in range(degree + 1)))
chebyshev = st.builds(chebyshev_coefficients, st.integers(1, 9), st.floats(0, 3))
random = st.lists(st.floats(-10, 10).map(lambda value: round(value, 6)), min_size=2, max_size=7).map(tuple)


@few_and_all
def test_gains(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * GAIN_EXAMPLES)
    @given(st.one_of(taylor, chebyshev, random), st.floats(0, 4))
    def check(coefficients: tuple[float, ...], norm: float) -> None:
        nonlocal cases
        # The samples are rounded themselves.
        assert largest(coefficients, norm) <= polynomial_gain(coefficients, norm) * (1 + 1e-13)
        cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * GAIN_EXAMPLES


def squared_distance(first: list[float], second: list[float]) -> Fraction:
    return sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(first, second, strict=True)), Fraction(0))


@few_and_all
def test_distances_of_rows(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * HEAD_EXAMPLES)
    @given(seeds, kinds, scales, st.integers(2, 4), st.integers(1, 6), st.booleans())
    def check(seed: int, kind: Fill, scale: float, classes: int, features: int, normalized: bool) -> None:
        nonlocal cases
        generator = torch.Generator().manual_seed(seed)
        head = NormalizedLinear(features, classes, dtype=torch.float64)
        for _ in range(BATCH):
            rows: Tensor = scale * drawn(kind, (classes, features, 1, 1), generator).flatten(1)
            if normalized:
                head.weight.data.copy_(rows)
                rows, bounds = head.rows().detach(), head.pairwise_lipschitz()
            else:
                bounds = row_distances(rows)
            for i, j in ((0, 1), (classes - 1, 0)):
                exact, bound = squared_distance(rows[i].tolist(), rows[j].tolist()), bounds[i, j].item()
                assert bound == torch.inf or exact <= Fraction(bound) ** 2
            cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * HEAD_EXAMPLES * BATCH


@few_and_all
def test_radii(share: float, record_property: Record) -> None:
    """Radii never exceed the exact quotients of the given logits and bounds."""
    cases = 0

    @examples(share * RADIUS_EXAMPLES)
    @given(seeds, scales, st.floats(1e-3, 1e3), st.sampled_from([torch.float32, torch.float64]))
    def check(seed: int, scale: float, lipschitz: float, dtype: torch.dtype) -> None:
        nonlocal cases
        generator = torch.Generator().manual_seed(seed)
        logits = (scale * torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)).to(dtype)
        bounds = lipschitz * (0.1 + torch.rand(4, 4, generator=generator, dtype=torch.float64))
        predictions, radii = certified_radius(logits, lipschitz)
        _, pairwise = pairwise_certified_radius(logits, bounds)
        for scores, y, radius, other in zip(
            logits.tolist(), predictions.tolist(), radii.tolist(), pairwise.tolist(), strict=True
        ):
            margins = {j: Fraction(scores[y]) - Fraction(scores[j]) for j in range(4) if j != y}
            assert 2 * (Fraction(radius) * Fraction(lipschitz)) ** 2 <= min(margins.values()) ** 2
            assert all(Fraction(other) * Fraction(bounds[y, j].item()) <= margin for j, margin in margins.items())
            cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * RADIUS_EXAMPLES * BATCH
