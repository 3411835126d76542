"""The measured figures of reliability: a file for each command that measures some, and one page of them all.

    python -m benchmarks.reliability

Each command writes results/reliability/NAME.json by `write_figures`; this one makes results/reliability.md of them.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lipnet import __version__
from lipnet.files import atomic_write
from lipnet.training.run_record import processor

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "reliability"
PAGE = ROOT / "results" / "reliability.md"
INTRODUCTION = """# Reliability, as measured

Written by `python -m benchmarks.reliability` from the files in `reliability/`, which the commands named here wrote.
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
    """Write what was measured to FOLDER/NAME.json, whole or not at all.

    Args:
        name: of the file, without its ending.
        title: of the section on the page.
        order: sections come in this order: those of the bound from 10, of the checks from 20, of the runs from 30 on.
        rows: what was measured, and what was seen.
        command: what measured it; None for the module that runs, with its arguments.
        folder: where the files are.

    Returns:
        The file.

    Raises:
        ValueError: if there are no rows, or one of them is no pair of texts.
    """
    if not rows or not all(len(row) == 2 and all(isinstance(text, str) for text in row) for row in rows):
        raise ValueError(f"rows must be pairs of texts, at least one, got {list(rows)}")
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
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
    return path


def render(folder: Path = FOLDER, page: Path = PAGE) -> str:
    """Write the page of all files of a folder, and return its text.

    Raises:
        ValueError: if there are no files, or one of them has not the keys of `write_figures`.
    """
    sections = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not sections:
        raise ValueError(f"there are no figures in {folder.absolute()}: run the commands that measure them")
    sections.sort(key=lambda section: section["order"])
    text = INTRODUCTION + "".join(map(_section, sections))
    with atomic_write(page) as file:
        file.write(text.encode())
    return text


def running_command() -> str:
    """The module that was started by ``python -m``, or the script, with its arguments; where files are on this machine
    concerns nobody."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["-m", spec.name] if spec is not None else [Path(sys.argv[0]).name]
    arguments = ["PATH" if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]
    return shlex.join(["python", *started, *arguments])


def machine() -> str:
    """The processor and how many of its cores there are for this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count()
    return f"{cores} cores, {processor()}"


def commit() -> str:
    """The commit of the working tree, marked where the code differs from it; "unknown" outside a repository."""
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
    lines = [f"## {content['title']}", "", "| measured | seen |", "| --- | --- |"]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in content["rows"]]
    lines += ["", f"`{content['command']}`, {content['machine']}; {versions}; commit {content['commit']}.", ""]
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    render()
