"""The Python snippets of the README and the guides run, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(each for folder in ("benchmarks", "docs", "results") for each in sorted((ROOT / folder).rglob("*.md"))),
]
SNIPPETS = [
    pytest.param(snippet, id=f"{page.name}-{number}")
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
# print(expression)  # 1.0, with whatever explanation
EXPECTATION = re.compile(r"^print\(.*\)  # ([\d.]+)\b", re.MULTILINE)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs_and_prints_what_it_says(snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(snippet, "snippet", "exec"), {})
    printed = capsys.readouterr().out.split()
    for expected in EXPECTATION.findall(snippet):
        assert expected in printed


def test_the_readme_has_a_snippet() -> None:
    assert any(parameter.id is not None and parameter.id.startswith("README") for parameter in SNIPPETS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
