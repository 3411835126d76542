"""The part of a page that is written by a program, between two marks."""

from pathlib import Path

from lipnet.files import atomic_write

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def write_page(page: Path, text: str) -> None:
    """Put a text between the marks of a page; the rest stays as it is.

    Raises:
        FileNotFoundError: if there is no such page.
        ValueError: if it has not each mark once, in their order.
    """
    before, _, after = _parts(page)
    with atomic_write(page) as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


def check_page(page: Path, text: str) -> None:
    """Check that a page has this text between its marks.

    Raises:
        FileNotFoundError: if there is no such page.
        ValueError: if the text is another, or as `write_page`.
    """
    if _parts(page)[1] != f"\n{text}\n":
        raise ValueError(f"{page} is stale: write it anew with python -m lipnet.results --write {page}")


def _parts(page: Path) -> tuple[str, str, str]:
    """What stands before, between and behind the marks."""
    content = page.read_text()
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise ValueError(f"{page} needs {BEGIN} and behind it {END}, each once")
    before, _, rest = content.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between, after
