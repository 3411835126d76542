"""Formulas of docstrings become MathML on the site."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("griffe", reason="the extra docs is not installed")
pytest.importorskip("latex2mathml", reason="the extra docs is not installed")

from tools.site_docstrings import with_formulas


def text_of(html: str) -> str:
    """Return what a browser shows of a formula."""
    return re.sub(r"<[^>]+>", "", html).replace("&#x0003D;", "=").replace("&#x0002B;", "+")


def test_a_formula_within_a_sentence() -> None:
    result = with_formulas("The layer is :math:`y = x + b` here.")
    assert text_of(result) == "The layer is y=x+b here."
    assert 'display="inline"' in result


def test_a_formula_of_its_own_ends_at_an_empty_line() -> None:
    result = with_formulas("The step is\n\n.. math:: y = x +\n    b\n\nfor all x.\n\n    .. math:: y = b")
    assert text_of(result) == "The step is\n\ny=x+b\n\nfor all x.\n\n    y=b"
    assert result.count('display="block"') == 2


def test_markdown_finds_no_marks_in_a_formula() -> None:
    formula = with_formulas(r":math:`a_i * b_{ij} [c]`")
    assert not set("*_[]`") & set(formula)


def test_a_text_without_formulas_stays() -> None:
    assert with_formulas("a * b, `c` and ``d_e``") == "a * b, `c` and ``d_e``"
