"""Printing for people: text is literal, and a terminal that cannot show it causes no error."""

import io
import sys
from typing import TextIO

from rich.console import Console, RenderableType


def say(*items: RenderableType, file: TextIO | None = None) -> None:
    """Print lines of text and rich tables, to the standard output by default.

    Text is printed without rich's markup, so that a folder named ``out[seed]`` keeps its name; control characters are
    printed as escapes. A closed or full output, or one that cannot encode a character, raises no error: a finished job
    must not fail because its last line cannot be shown.
    """
    stream = file or sys.stdout
    try:
        for item in items:
            text = f"{_without_controls(item)}\n" if isinstance(item, str) else _rendered(item, stream)
            encoding = stream.encoding or "utf-8"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
    except (OSError, ValueError):  # a closed pipe or a full disk; a closed file
        return


def _without_controls(text: str) -> str:
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def _rendered(item: RenderableType, stream: TextIO) -> str:
    """Render into a string, for the stream's width and colours: rich itself would end the program at a broken pipe."""
    target = Console(file=stream)
    buffer = io.StringIO()
    settings = {"force_terminal": target.is_terminal, "width": target.width, "markup": False, "emoji": False}
    Console(file=buffer, **settings).print(item)  # type: ignore[arg-type]
    return buffer.getvalue()
