"""The Python snippets of all pages run, and their links have targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *(each for folder in ("benchmarks", "docs", "results") for each in sorted((ROOT / folder).rglob("*.md"))),
]
# Pages whose snippets compile or write whole models.
SLOW_PAGES = {"export.md"}
SNIPPETS = [
    pytest.param(snippet, id=f"{page.name}-{number}", marks=[pytest.mark.slow] if page.name in SLOW_PAGES else [])
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
# print(expression)  # 1.0, followed by any explanation
EXPECTATION = re.compile(r"^print\(.*\)  # ([\d.]+)\b", re.MULTILINE)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs_and_prints_the_documented_numbers(snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet, "snippet", "exec"), {})
    printed = capsys.readouterr().out.split()
    for expected in EXPECTATION.findall(snippet):
        assert expected in printed


def test_the_readme_has_a_snippet() -> None:
    assert any(parameter.id is not None and parameter.id.startswith("README") for parameter in SNIPPETS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_have_targets(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {path}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
