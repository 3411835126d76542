"""MkDocs hooks that add files outside docs/ to the documentation site.

Pages link to such files by relative paths, such as ``../results/reliability.md``, which also work on GitHub. The site
has a copy of each linked file below ``repository/``, README.md as its first page, and a page for each notebook.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")
START = "README.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the first page, the notebooks' pages and all files outside docs/ that a page links to."""
    pages = [START, "CONTRIBUTING.md", "CHANGELOG.md"]
    pages += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    pages += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    seen = set()
    while pages:
        path = pages.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith("docs/"):
            files.append(_file(path, config))
        if path.endswith((".md", ".ipynb")) or (ROOT / path).is_dir():
            pages += _targets(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page at the site's copies of their targets."""
    path = next((path for path, uri in _moved.items() if uri == page.file.src_uri), f"docs/{page.file.src_uri}")
    folder = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        uri = site_uri(_target(path, link[2]))
        return f"{link[1]}{posixpath.relpath(uri, folder)}{link[3] or ''}{link[4]}"

    return LINK.sub(moved, markdown)


def site_uri(path: str) -> str:
    """Return the path in the site of a file or folder of the repository.

    Example:
        >>> site_uri("docs/layers.md"), site_uri("results/reliability.md"), site_uri("notebooks/own_images.ipynb")
        ('layers.md', 'repository/results/reliability.md', 'notebooks/own_images.md')
    """
    if path == START:
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    return f"repository/{path}"


def notebook_markdown(text: str) -> str:
    """Return a notebook as Markdown: its text, and its code in fences."""
    return "\n\n".join(
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in json.loads(text)["cells"]
    )


_moved: dict[str, str] = {}
"""Path in the site of each file outside docs/."""


def _file(path: str, config: MkDocsConfig) -> File:
    uri = _moved[path] = site_uri(path)
    source = ROOT / path
    if path.endswith(".ipynb"):
        return File.generated(config, uri, content=notebook_markdown(source.read_text()))
    if source.is_dir():
        return File.generated(config, uri, content=_listing(path))
    return File.generated(config, uri, abs_src_path=str(source))


def _listing(path: str) -> str:
    names = sorted(each.name for each in (ROOT / path).iterdir() if each.is_file())
    return f"# {path}\n\n" + "\n".join(f"- [{name}]({path.rsplit('/', 1)[-1]}/{name})" for name in names)


def _target(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _targets(path: str) -> list[str]:
    """Return the repository's files that a page, notebook or folder links to."""
    source = ROOT / path
    if source.is_dir():
        text = _listing(path)
    else:
        text = notebook_markdown(source.read_text()) if path.endswith(".ipynb") else source.read_text()
    return [_target(path, link[2]) for link in LINK.finditer(text)]
