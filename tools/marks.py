"""Generated parts of pages, between two marks."""

from pathlib import Path


def replace_between(content: str, generated: str, page: Path, name: str) -> str:
    """Return a page's content with this text between its marks ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.

    Raises:
        ValueError: unless the page has each mark once, in their order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{page} needs {begin} and after it {end}, each once")
    before, _, rest = content.partition(begin)
    return f"{before}{begin}\n{generated}\n{end}{rest.partition(end)[2]}"
