"""Files and page of the reliability benchmarks: a file for each command, and one page with all of them.

    python -m benchmarks.reliability

The other commands write results/reliability/NAME.json with `write_figures`; this one joins the files into
results/reliability.md.
"""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.rows import ROOT
from lipnet import __version__
from lipnet.files import atomic_write
from lipnet.training.run_record import hardware

FOLDER = ROOT / "results" / "reliability"
PAGE = ROOT / "results" / "reliability.md"
INTRODUCTION = """# Reliability, as measured

`python -m benchmarks.reliability` writes this page from the files in `reliability/`. The command below each table
measured its figures at the commit below it, which may be older than the code: tests may have other names by now.
Symbols: [notation.md](../docs/notation.md).
"""
KEYS = ("title", "command", "order", "machine", "versions", "commit", "rows")


def write_figures(
    name: str,
    title: str,
    order: int,
    rows: Sequence[tuple[str, str]],
    *,
    command: str | None = None,
    folder: Path = FOLDER,
) -> Path:
    """Write figures to FOLDER/NAME.json in one step, and return the path.

    Args:
        name: name of the file, without the suffix.
        title: title of the section on the page.
        order: sort key of the section: bounds from 10, checks from 20, runs from 30.
        rows: pairs of a measurement's description and its result.
        command: command that measured them; None: the running module with its arguments.
        folder: folder for the files.

    Raises:
        ValueError: if there are no rows, or a row is not a pair of strings.
    """
    if not rows or not all(len(row) == 2 and all(isinstance(text, str) for text in row) for row in rows):
        raise ValueError(f"rows must be one or more pairs of strings, got {list(rows)}")
    content = {
        "title": title,
        "command": command or running_command(),
        "order": order,
        "machine": machine(),
        "versions": {"lipnet": __version__, "torch": version("torch"), "python": platform.python_version()},
        "commit": commit(),
        "rows": [list(row) for row in rows],
    }
    path = folder / f"{name}.json"
    write_json(path, content)
    return path


def render(folder: Path = FOLDER, page: Path = PAGE) -> str:
    """Write the page of all files in a folder, and return its text.

    Raises:
        ValueError: if there are no files, or a file lacks a key of `write_figures`.
    """
    sections = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not sections:
        raise ValueError(f"no figures in {folder.absolute()}: run the benchmarks first")
    sections.sort(key=lambda section: section["order"])
    text = INTRODUCTION + "".join(map(_section, sections))
    with atomic_write(page) as file:
        file.write(text.encode())
    return text


def running_command() -> str:
    """Return the running module or script with its arguments, and PATH in place of absolute paths."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["-m", spec.name] if spec is not None else [Path(sys.argv[0]).name]
    arguments = ["PATH" if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    return shlex.join(["python", *started, *arguments])


def machine() -> str:
    """Return the number of cores available to this process, and the processor's name."""
    about = hardware(torch.device("cpu"))
    return f"{about['cores']} cores, {about['processor']}"


def commit() -> str:
    """Return the checked-out commit, marked if the code differs from it, or "unknown" outside a repository."""
    number = _git("rev-parse", "--short=12", "HEAD")
    if number is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!docs")
    return f"{number}, changed" if changed else number


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    read: dict[str, Any] = content
    return read


def _section(content: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    lines = [f"## {content['title']}", "", "| measurement | result |", "| --- | --- |"]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in content["rows"]]
    lines += ["", f"`{content['command']}`, {content['machine']}; {versions}; commit {content['commit']}.", ""]
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    render()
