"""Measure how readable the package is, and compare with the limits.

python -m tools.measure              print the table
python -m tools.measure --list       also print each finding with its place
python -m tools.measure --check      exit with status 1 if a limit is exceeded
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

WINDOW = 6
_NAME_ALONE = re.compile(r"[\w.]+,")
LONG_FUNCTION, LONG_FILE = 40, 250
OPENINGS = {"What", "How", "Of", "Where", "That", "Which", "Whether"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | Function
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Source:
    """Python file: its text, its syntax tree, and its code lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        self.tree = ast.parse(self.text)

    @cached_property
    def code_lines(self) -> list[int]:
        """Numbers of the lines that hold code: neither docstring, comment nor blank."""
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _LAYOUT:
                lines.update(range(token.start[0], token.end[0] + 1))
        for docstring in map(_docstring, self.documented()):
            if docstring is not None:
                lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        return sorted(lines)

    def documented(self) -> Iterator[_Documented]:
        """Yield the module, its classes and its functions."""
        return (node for node in ast.walk(self.tree) if isinstance(node, _Documented))

    def functions(self) -> Iterator[Function]:
        """Yield all functions and methods."""
        return (node for node in self.documented() if isinstance(node, Function))

    def signature_lines(self) -> set[int]:
        """Return the numbers of the lines of all functions' signatures."""
        return {line for function in self.functions() for line in range(function.lineno, function.body[0].lineno)}

    def place(self, line: int) -> str:
        """Return ``path:line``."""
        return f"{self.path}:{line}"


@dataclass(frozen=True)
class Measure:
    """Row of the table.

    Attributes:
        name: description of the count.
        count: the measured number.
        limit: largest count that ``--check`` accepts; None: any.
        found: places that are counted.
    """

    name: str
    count: int
    limit: int | None = None
    found: Sequence[str] = ()

    @property
    def exceeded(self) -> bool:
        """True if the count is above its limit."""
        return self.limit is not None and self.count > self.limit


def measure(root: Path) -> list[Measure]:
    """Measure all Python files below a folder."""
    sources = [Source(path) for path in sorted(root.rglob("*.py"))]
    once, private = called_once(sources)
    clones = shared_lines(sources)
    openings = awkward_openings(sources)
    functions, files = long_functions(sources), long_files(sources)
    return [
        Measure(
            "lines of code, without docstrings, comments and blank lines",
            sum(len(source.code_lines) for source in sources),
            None,
            lines_by_room(sources, root),
        ),
        Measure(f"private functions with a single caller, of {private}", len(once), None, once),
        Measure(f"pairs of places that share {WINDOW} or more lines", len(clones), 15, clones),
        Measure("docstrings that open with What, How, Of, Where, That, Which, Whether", len(openings), 0, openings),
        Measure(f"functions of more than {LONG_FUNCTION} lines of code", len(functions), None, functions),
        Measure(f"files of more than {LONG_FILE} lines", len(files), None, files),
    ]


def lines_by_room(sources: Sequence[Source], root: Path) -> list[str]:
    """List the lines of code of each folder below the root, and of the files beside them."""
    rooms: Counter[str] = Counter()
    for source in sources:
        room, *inner = source.path.relative_to(root).parts
        rooms[room if inner else "."] += len(source.code_lines)
    return [f"{room}: {lines:,}" for room, lines in sorted(rooms.items())]


def called_once(sources: Sequence[Source]) -> tuple[list[str], int]:
    """List private module-level functions whose name is referenced once in all files, and count all such functions.

    Methods are left out, because a base class may call them. An import is no reference.
    """
    references: Counter[str] = Counter()
    defined: dict[str, str] = {}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name | ast.Attribute):
                references[node.id if isinstance(node, ast.Name) else node.attr] += 1
        for function in source.tree.body:
            if isinstance(function, Function) and function.name.startswith("_"):
                defined[function.name] = source.place(function.lineno)
    return [f"{place} {name}" for name, place in defined.items() if references[name] == 1], len(defined)


def shared_lines(sources: Sequence[Source]) -> list[str]:
    """List pairs of places with at least `WINDOW` equal consecutive code lines, each longest run once.

    Signatures are left out, and so are lines that only pass an argument or import a name: every convolution repeats the
    arguments of ``nn.Conv2d`` on purpose.
    """
    code, numbers = [], []
    for source in sources:
        lines, signatures = source.text.splitlines(), source.signature_lines()
        numbers.append(
            [
                number
                for number in source.code_lines
                if number not in signatures and not _NAME_ALONE.fullmatch(lines[number - 1].strip())
            ]
        )
        code.append([lines[number - 1].strip() for number in numbers[-1]])
    windows: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for index, lines in enumerate(code):
        for start in range(len(lines) - WINDOW + 1):
            windows[tuple(lines[start : start + WINDOW])].append((index, start))
    found = []
    for places in windows.values():
        for (first, i), (second, j) in combinations(places, 2):
            overlap = first == second and j - i < WINDOW
            continues = min(i, j) > 0 and code[first][i - 1] == code[second][j - 1]
            if not overlap and not continues:
                starts = ((first, i), (second, j))
                found.append(" ".join(sources[index].place(numbers[index][line]) for index, line in starts))
    return sorted(found)


def awkward_openings(sources: Sequence[Source]) -> list[str]:
    """List docstrings whose first word is one of `OPENINGS`."""
    found = []
    for source in sources:
        for node in source.documented():
            words = (ast.get_docstring(node) or "").split(maxsplit=4)
            if words and words[0].rstrip(",") in OPENINGS:
                found.append(f"{source.path}: {' '.join(words[:4])} ...")
    return found


def long_functions(sources: Sequence[Source]) -> list[str]:
    """List functions of more than `LONG_FUNCTION` lines of code, signature included."""
    found = []
    for source in sources:
        for function in source.functions():
            own = range(function.lineno, (function.end_lineno or 0) + 1)
            length = sum(line in own for line in source.code_lines)
            if length > LONG_FUNCTION:
                found.append(f"{source.place(function.lineno)} {function.name}: {length}")
    return found


def long_files(sources: Sequence[Source]) -> list[str]:
    """List files of more than `LONG_FILE` lines, docstrings and comments included."""
    lengths = ((source, len(source.text.splitlines())) for source in sources)
    return [f"{source.path}: {length}" for source, length in lengths if length > LONG_FILE]


def _docstring(node: _Documented) -> ast.Expr | None:
    first = node.body[0] if node.body else None
    return first if isinstance(first, ast.Expr) and ast.get_docstring(node) is not None else None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, nargs="?", default=Path("lipnet"), help="folder to measure")
    parser.add_argument("--list", action="store_true", help="print each finding with its place")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a limit is exceeded")
    options = parser.parse_args(arguments)
    measures = measure(options.root)
    width = max(len(each.name) for each in measures)
    for each in measures:
        limit = "" if each.limit is None else f"  at most {each.limit:,}{'  EXCEEDED' if each.exceeded else ''}"
        print(f"{each.name:{width}}  {each.count:>6,}{limit}")
        if options.list:
            print(*(f"    {place}" for place in each.found), sep="\n")
    if options.check and any(each.exceeded for each in measures):
        sys.exit(1)


if __name__ == "__main__":
    main()
