"""The README's table of measured results and published figures, and new results for it.

python -m tools.results                        print the table
python -m tools.results --write README.md      write it between the page's two marks
python -m tools.results --check README.md      fail if the page has another table
python -m tools.results add RUN NAME           make a result from the folder of a run
"""

import argparse
import os
import sys
from pathlib import Path

from lipnet.files import atomic_write
from tools.marks import replace_between
from tools.results.folders import add_result, read_results
from tools.results.published import published_rows
from tools.results.table import results_tables

# Its marks are <!-- results:begin --> and <!-- results:end -->.
MARK = "results"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; print one line and exit with status 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    page = parser.add_mutually_exclusive_group()
    page.add_argument("--write", type=Path, metavar="PAGE", help="write the table between the marks of this page")
    page.add_argument("--check", type=Path, metavar="PAGE", help="fail if this page has another table")
    add = parser.add_subparsers(dest="command").add_parser("add", help="make a result from a run")
    add.add_argument("run", type=Path, help="folder of a run of train.py")
    add.add_argument("name", help="name of the result: its folder below the folder of all results")
    try:
        _run(parser.parse_args(arguments))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> None:
    root: Path = arguments.results
    if arguments.command == "add":
        result = add_result(arguments.run, arguments.name, root)
        print(f"{root / result.name}: {result.progress()}. The table: python -m tools.results --write README.md")
        return
    page: Path | None = arguments.write or arguments.check
    links = os.path.relpath(root, page.parent if page is not None else Path())
    table = results_tables(read_results(root), published_rows(), Path(links).as_posix())
    if page is None:
        print(table)
        return
    content = page.read_text()
    expected = replace_between(content, table, page, MARK)
    if arguments.write is not None:
        with atomic_write(page) as file:
            file.write(expected.encode())
    elif content != expected:
        raise ValueError(f"{page} is stale: update it with python -m tools.results --write {page}")


if __name__ == "__main__":
    main()
