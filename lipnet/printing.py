"""Printing for people: text is taken literally, and a terminal that cannot show it is no reason to fail."""

import sys
from typing import TextIO

from rich.console import Console, RenderableType


def say(*items: RenderableType, file: TextIO | None = None) -> None:
    """Print lines of text and rich tables, to the standard output by default.

    Text is no markup, so that a folder named ``out[seed]`` is printed as it is; control characters are shown as
    escapes. A closed or full output, or one that lacks a character, never raises: a finished job must not fail because
    its last line cannot be shown.
    """
    stream = file or sys.stdout
    console = Console(file=stream, markup=False, emoji=False, highlight=False)
    for item in items:
        try:
            console.print(printable(item, stream) if isinstance(item, str) else item, soft_wrap=isinstance(item, str))
            stream.flush()
        except (OSError, ValueError):
            # A closed pipe, a full disk, or a table with characters that the output lacks (UnicodeEncodeError).
            return


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return text without control characters and without characters that the stream cannot encode."""
    shown = "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
