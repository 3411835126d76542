"""Let the site show the examples of docstrings as code."""

from typing import Any

import griffe


class ExamplesAsCode(griffe.Extension):
    """Reads a section ``Example:`` like griffe's ``Examples:``, the only name under which it recognises doctests."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the sections of an object's docstring."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
