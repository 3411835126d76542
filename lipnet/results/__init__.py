"""Folders of measured results, and the table of them beside the published figures.

python -m lipnet.results add RUN NAME
python -m lipnet.results --write README.md
"""

from lipnet.results.adding import add_result
from lipnet.results.folders import Result, read_result, read_results
from lipnet.results.page import check_page, write_page
from lipnet.results.published import PublishedRow, published_rows
from lipnet.results.table import results_tables

__all__ = [
    "PublishedRow",
    "Result",
    "add_result",
    "check_page",
    "published_rows",
    "read_result",
    "read_results",
    "results_tables",
    "write_page",
]
