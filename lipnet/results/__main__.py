"""The table of measured results beside the published figures, and new results for it.

python -m lipnet.results                        prints the table
python -m lipnet.results --write README.md      puts it between the marks of that page
python -m lipnet.results --check README.md      fails if the page has another
python -m lipnet.results add RUN NAME           makes a result of the folder of a run
"""

import argparse
import os
import sys
from pathlib import Path

from lipnet.results.adding import add_result
from lipnet.results.folders import read_results
from lipnet.results.page import check_page, write_page
from lipnet.results.published import published_rows
from lipnet.results.table import results_tables


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks for; ends with status 1 and one line where that is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m lipnet.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of all results")
    page = parser.add_mutually_exclusive_group()
    page.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    page.add_argument("--check", type=Path, metavar="PAGE", help="fail if this page has another table")
    add = parser.add_subparsers(dest="command").add_parser("add", help="make a result of a run")
    add.add_argument("run", type=Path, help="the folder of a run of train.py")
    add.add_argument("name", help="of the result, the folder below that of all results")
    try:
        _perform(parser.parse_args(arguments))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _perform(arguments: argparse.Namespace) -> None:
    root: Path = arguments.results
    if arguments.command == "add":
        result = add_result(arguments.run, arguments.name, root)
        print(f"{root / result.name}: {result.progress()}. The table: python -m lipnet.results --write README.md")
        return
    page: Path | None = arguments.write or arguments.check
    links = os.path.relpath(root, page.parent if page is not None else Path())
    text = results_tables(read_results(root), published_rows(), Path(links).as_posix())
    if arguments.write is not None:
        write_page(arguments.write, text)
    elif arguments.check is not None:
        check_page(arguments.check, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
