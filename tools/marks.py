"""Replacement of the generated parts of pages, which stand between two marks."""

from pathlib import Path


def replace_between(content: str, generated: str, page: Path, name: str) -> str:
    """Return a page's content with other text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Args:
        content: text of the page.
        generated: text for the place between the marks.
        page: path of the page, for the error.
        name: NAME in the marks.

    Raises:
        ValueError: unless the page has each mark once, in their order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{page} must have {begin} and after it {end}, each once")
    before, _, rest = content.partition(begin)
    return f"{before}{begin}\n{generated}\n{end}{rest.partition(end)[2]}"
