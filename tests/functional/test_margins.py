"""Margins and certified radii against exact rational arithmetic."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lipnet.functional.margins import STANDARD_RADII, certified_radius, parse_radius, round_down, top_margin

LIPSCHITZ = [1e-3, 0.1, 1 / 3, 1.0, 1.0000000000000002, 7.3, 1e3]


def exact_margins(logits: Tensor) -> list[Fraction]:
    """The margins as exact rationals: Fraction and sorted() share nothing with the code under test."""
    rows = [sorted(map(Fraction, row)) for row in logits.double().tolist()]
    return [row[-1] - row[-2] for row in rows]


def assert_tight_lower_bounds(radius: Tensor, margins: list[Fraction], lipschitz: float) -> None:
    """Check ``radius <= margin / (sqrt(2) K)`` within 1e-14, squared so that only rationals are compared."""
    slack = (1 - Fraction(1, 10**14)) ** 2
    for value, margin in zip(radius.tolist(), margins, strict=True):
        square = 2 * Fraction(lipschitz) ** 2 * Fraction(value) ** 2
        assert square <= margin**2
        assert square >= slack * margin**2


@pytest.mark.parametrize("lipschitz", LIPSCHITZ)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_radius_never_exceeds_the_exact_quotient(dtype: torch.dtype, lipschitz: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(200, 10, generator=generator, dtype=torch.float64)).to(dtype)
    prediction, radius = certified_radius(logits, lipschitz)
    assert prediction.dtype == torch.int64
    assert radius.dtype == torch.float64
    assert prediction.tolist() == [row.index(max(row)) for row in logits.tolist()]
    assert_tight_lower_bounds(radius, exact_margins(logits), lipschitz)


@pytest.mark.parametrize("scale", [1e-150, 1e-3, 1.0, 1e3, 1e150])
def test_radius_at_every_scale_of_the_logits(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    _, radius = certified_radius(logits, 0.7)
    assert_tight_lower_bounds(radius, exact_margins(logits), 0.7)


def test_margin_is_the_float_next_below_the_exact_difference() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    logits[:, 1] *= 2.0 ** torch.randint(-70, 70, (500,), generator=generator)
    _, margin = top_margin(logits)
    rounded_up = 0
    for value, exact, row in zip(margin.tolist(), exact_margins(logits), logits.tolist(), strict=True):
        assert Fraction(value) <= exact < Fraction(math.nextafter(value, math.inf))
        rounded_up += Fraction(abs(row[0] - row[1])) > exact
    assert rounded_up > 50, "unless the plain difference often exceeds the exact one, this test shows nothing"


def test_margin_of_exact_differences_is_exact() -> None:
    prediction, margin = top_margin(torch.tensor([[1.0, 3.5, 0.0], [-2.0, -1.0, -8.0], [4.0, 1.0, 4.0]]))
    assert prediction.tolist()[:2] == [1, 1]
    assert margin.tolist() == [2.5, 1.0, 0.0]
    assert margin.dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_rows_that_are_not_finite_certify_nothing(bad: float, column: int) -> None:
    logits = torch.tensor([[9.0, 1.0, 0.0], [9.0, 1.0, 0.0]])
    logits[0, column] = bad
    prediction, radius = certified_radius(logits, 1.0)
    assert radius[0] == 0
    assert radius[1] > 0
    assert 0 <= prediction[0] < 3


def test_extreme_quotients_stay_finite_lower_bounds() -> None:
    largest = torch.finfo(torch.float64).max
    logits = torch.tensor([[largest, -largest], [5e-324, 0.0]], dtype=torch.float64)
    _, margin = top_margin(logits)
    assert margin.tolist() == [largest, 5e-324]
    for lipschitz in (1.5e-323, 1e-300, 1.0, 1e300, largest):
        _, radius = certified_radius(logits, lipschitz)
        assert radius.isfinite().all()
        for value, exact in zip(radius.tolist(), exact_margins(logits), strict=True):
            assert 2 * Fraction(lipschitz) ** 2 * Fraction(value) ** 2 <= exact**2


def test_an_infinite_constant_certifies_nothing() -> None:
    _, radius = certified_radius(torch.tensor([[9.0, 1.0]]), math.inf)
    assert radius.tolist() == [0.0]


def test_radius_reaches_the_boundary_of_the_worst_linear_classifier() -> None:
    """Logits K x of two pixels have a boundary at distance abs(x_0 - x_1) / sqrt(2), whatever K."""
    lipschitz = 3.0
    images = torch.tensor([[0.9, 0.2], [0.3, 0.7]], dtype=torch.float64)
    _, radius = certified_radius(lipschitz * images, lipschitz)
    direction = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    inside = images + radius.unsqueeze(1) * (1 - 1e-9) * direction
    outside = images + radius.unsqueeze(1) * (1 + 1e-9) * direction
    assert inside.argmax(dim=1).tolist() == [0, 1]
    assert outside.argmax(dim=1).tolist() == [1, 0]


def test_no_gradient_and_no_samples() -> None:
    _, radius = certified_radius(torch.ones(2, 3, requires_grad=True), 1.0)
    assert not radius.requires_grad
    prediction, radius = certified_radius(torch.zeros(0, 3), 1.0)
    assert prediction.shape == radius.shape == (0,)


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, float("nan"), -math.inf])
def test_constants_that_are_not_positive_raise(lipschitz: float) -> None:
    with pytest.raises(ValueError, match=f"lipschitz must be positive .* got {lipschitz}"):
        certified_radius(torch.zeros(1, 2), lipschitz)


@pytest.mark.parametrize(
    ("logits", "received"),
    [
        (torch.zeros(4, 1), r"\(4, 1\)"),
        (torch.zeros(4), r"\(4,\)"),
        (torch.zeros(1, 2, 3), r"\(1, 2, 3\)"),
        (torch.zeros(4, 2, dtype=torch.int64), "torch.int64"),
    ],
)
def test_logits_of_a_wrong_kind_raise(logits: Tensor, received: str) -> None:
    with pytest.raises(ValueError, match=f"floating tensor of shape .* got .*{received}"):
        top_margin(logits)


@pytest.mark.parametrize("decimals", [0, 1, 3, 17, 30])
def test_round_down_is_the_greatest_decimal_below(decimals: int) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(100, generator=generator, dtype=torch.float64).tolist()
    for value in [*values, 0.3, 0.1, 36 / 255, 1e300, 5e-324, 0.0]:
        text = round_down(value, decimals)
        assert Fraction(text) <= Fraction(value) < Fraction(text) + Fraction(1, 10**decimals)
        assert -Decimal(text).as_tuple().exponent == decimals


def test_round_down_prints_what_a_table_needs() -> None:
    assert round_down(0.14199) == "0.141"
    assert round_down(1.0, 2) == "1.00"
    assert round_down(-0.0, 2) == "0.00"
    assert round_down(2.999, 0) == "2"


@pytest.mark.parametrize("radius", [-0.1, math.inf, -math.inf, math.nan])
def test_round_down_of_no_radius_raises(radius: float) -> None:
    with pytest.raises(ValueError, match=f"radius must be finite and at least 0, got {radius}"):
        round_down(radius)


def test_round_down_to_negative_decimals_raises() -> None:
    with pytest.raises(ValueError, match="decimals must be at least 0, got -1"):
        round_down(0.5, -1)


def test_parse_radius_reads_fractions_decimals_and_numbers() -> None:
    assert [parse_radius(text) for text in STANDARD_RADII] == [36 / 255, 72 / 255, 108 / 255, 1.0]
    values = [parse_radius(radius) for radius in ("0.5", "1e-3", "2/4", 1, 0.25, 0)]
    assert values == [0.5, 1e-3, 0.5, 1.0, 0.25, 0.0]


@pytest.mark.parametrize("text", STANDARD_RADII)
def test_strict_comparison_with_a_parsed_radius_is_never_optimistic(text: str) -> None:
    just_above = math.nextafter(parse_radius(text), math.inf)
    assert Fraction(just_above) > Fraction(text)


@pytest.mark.parametrize(
    "radius", ["1/0", "one", "", "1/2/3", "0.5/2", "9" * 400 + "/1", "1_0", "1_0/255", "\u0661", "0x1p3", None, [1]]
)
def test_radii_that_cannot_be_read_raise(radius: Any) -> None:
    with pytest.raises(ValueError, match=f"number such as '36/255' or 0.5, got {re.escape(repr(radius))}"):
        parse_radius(radius)


@pytest.mark.parametrize("radius", ["-1/255", "nan", "inf", "1e999", -0.5, math.nan, math.inf])
def test_radii_that_are_negative_or_not_finite_raise(radius: str | float) -> None:
    with pytest.raises(ValueError, match="radius must be finite and at least 0, got"):
        parse_radius(radius)


def exact_radius(logits: list[float], lipschitz: float, error: float) -> Fraction:
    """Return (f_(1) - f_(2) - 2 sqrt(2) E) / (sqrt(2) K), with a rational number for sqrt(2)."""
    first, second = sorted(map(Fraction, logits))[::-1][:2]
    root = Fraction(math.isqrt(2 * 10**60), 10**30)  # below the root of 2 by less than 1e-30
    return (first - second - 2 * root * Fraction(error)) / (root * Fraction(lipschitz))


@pytest.mark.parametrize("error", [1e-300, 1e-9, 1e-3])
@pytest.mark.parametrize("lipschitz", [1e-3, 1.0, 3.7])
def test_errors_of_the_logits_are_taken_off_and_rounded_down(lipschitz: float, error: float) -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, naive = certified_radius(logits, lipschitz)
    _, radius = certified_radius(logits, lipschitz, error)
    assert (radius <= naive).all()
    for row, value in zip(logits.tolist(), radius.tolist(), strict=True):
        true = max(Fraction(0), exact_radius(row, lipschitz, error))
        assert Fraction(value) <= true * (1 + Fraction(1, 10**25))
        assert Fraction(value) >= true * (1 - Fraction(1, 10**12)) - Fraction(1, 10**15)


def test_a_margin_within_the_errors_certifies_nothing() -> None:
    error = 2.0**-30
    border = 2 * math.sqrt(2) * error
    logits = torch.tensor([[border * factor, 0.0] for factor in (0.0, 0.5, 1.0, 1 + 1e-9)], dtype=torch.float64)
    radius = certified_radius(logits, 1.0, error)[1]
    assert radius[:3].tolist() == [0.0] * 3
    assert 0 < radius[3] < 1e-15


def test_infinite_errors_and_logits_that_are_no_numbers_certify_nothing() -> None:
    logits = torch.tensor([[9.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [1.0, -math.inf]], dtype=torch.float64)
    assert certified_radius(logits, 1.0, math.inf)[1].tolist() == [0.0] * 4
    assert certified_radius(logits, 1.0, 1e-9)[1].tolist()[1:] == [0.0] * 3


@pytest.mark.parametrize("error", [-1e-9, math.nan])
def test_errors_that_are_none_are_refused(error: float) -> None:
    with pytest.raises(ValueError, match="error must be at least 0"):
        certified_radius(torch.zeros(1, 2), 1.0, error)
