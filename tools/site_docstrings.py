"""griffe extension with which the site shows the examples of docstrings as code, and their formulas as formulas."""

import re
from textwrap import dedent
from typing import Any

import griffe
from latex2mathml.converter import convert

_INLINE = re.compile(r":math:`([^`]+)`")
# A displayed formula ends at an empty line or at the end of the docstring.
_BLOCK = re.compile(r"^( *)\.\. math::[ \n]+(.+?)(?=\n *\n|\Z)", re.MULTILINE | re.DOTALL)
# Escape the characters that Markdown would take for markup.
_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "*_`[]\\"})


class ReadableDocstrings(griffe.Extension):
    """Rewrites docstrings for the site.

    - A section ``Example:`` becomes griffe's ``Examples:``, the only name under which it recognises doctests.
    - Formulas in Sphinx's notation become MathML, which browsers show without scripts or downloaded fonts.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite an object's docstring."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = with_formulas(obj.docstring.value.replace("Example:\n", "Examples:\n"))


def with_formulas(text: str) -> str:
    """Replace formulas in Sphinx's notation by MathML in a Markdown text."""
    text = _BLOCK.sub(lambda block: f"{block[1]}{_mathml(dedent(block[2]), 'block')}", text)
    return _INLINE.sub(lambda inline: _mathml(inline[1], "inline"), text)


def _mathml(formula: str, display: str) -> str:
    return str(convert(" ".join(formula.split()), display=display)).translate(_MARKS)
