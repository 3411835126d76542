"""Train all rows of the GS-SOC paper's tables 3 and 4 at a smaller size. Does their order hold?

    python -m benchmarks.table3_short --data-dir data
    python -m benchmarks.table3_short --render

The recipe is the published one, for LipConvNet-5 with 16 initial channels in place of LipConvNet-15 with 32, and for 40
epochs in place of 200, or ``--epochs``. The best epoch is certified on the validation images; nothing reads the test
images. After an interruption, the same command resumes within the epoch.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import sqrt
from typing import Any

from benchmarks.pages import RADIUS, certified, markdown_table, percent
from benchmarks.sweep import Row, Sweep, run, sweep_parser
from benchmarks.sweep_report import Description, variance_of
from tools.results.published import published_rows

EPOCHS = 40
BASE = (
    "model.depth=5",
    "model.initial_channels=16",
    "trainer=cpu",
    "certify.split=validation",
    "seed=0",
)


def rows_of_the_paper() -> Iterator[tuple[Row, float]]:
    """Yield a row for each cell of the paper's tables, with its published certified accuracy at `RADIUS` in %."""
    for cell in published_rows():
        if cell.experiment is not None:
            group = cell.experiment.removeprefix("table3/")
            unpaired = cell.settings.get("conv.paired") is False
            # MaxMin is the default of SOC.
            maxmin = group != "soc" and cell.settings["activation._target_"].endswith(".MaxMin")
            name = "_".join([group, *["not_paired"] * unpaired, *["maxmin"] * maxmin])
            overrides = (*["conv.paired=false"] * unpaired, *["activation=maxmin"] * maxmin)
            yield Row(name, group, (f"experiment={cell.experiment}", *overrides)), float(cell.certified[RADIUS])


PUBLISHED_BY_NAME = {row.name: accuracy for row, accuracy in rows_of_the_paper()}
ROWS = tuple(row for row, _ in rows_of_the_paper())


def pairs_in_order(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Count pairs of rows that differ by more than two standard errors, and those of them in the published order."""
    resolved = agreeing = 0
    for one, other in combinations(rows, 2):
        difference = certified(one) - certified(other)
        if abs(difference) > 2 * sqrt(variance_of(one) + variance_of(other)):
            resolved += 1
            agreeing += difference * (PUBLISHED_BY_NAME[one["name"]] - PUBLISHED_BY_NAME[other["name"]]) > 0
    return resolved, agreeing


def describe(rows: Sequence[dict[str, Any]]) -> Description:
    """Return the texts of the page about these rows."""
    summary, epochs = rows[0]["summary"], rows[0]["run"]["planned_epochs"]
    resolved, agreeing = pairs_in_order(rows)
    ordered = sorted(rows, key=lambda row: -PUBLISHED_BY_NAME[row["name"]])
    table = markdown_table(
        ["row", "published", "here"],
        [(f"`{row['name']}`", f"{PUBLISHED_BY_NAME[row['name']]:.2f}", percent(certified(row))) for row in ordered],
    )
    return Description(
        title="The rows of the paper at a smaller size",
        method=[
            "Each row of the GS-SOC paper's tables 3 and 4 (Gorbunov et al. 2024, arXiv 2406.10019) is trained with "
            f"the published recipe, but LipConvNet-5 with 16 initial channels for {epochs} epochs in place of "
            "LipConvNet-15 with 32 for 200. The learning rate falls after a half and three quarters of the epochs. The "
            f"epoch with the best certified accuracy at {RADIUS} is certified in {summary['dtype']} on "
            f"{summary['n_samples']:,} validation images, held out from the training images. The same images select "
            "the epoch, so all figures are slightly optimistic. Nothing reads the test images."
        ],
        choice=f"Does the order of the paper hold? Here, {resolved} pairs of rows differ at {RADIUS} by more than two "
        f"standard errors. {agreeing} of them are in the published order.\n\n" + "\n".join(table),
        module="benchmarks.table3_short",
    )


def main() -> None:
    names = [row.name for row in ROWS]
    parser = sweep_parser(__doc__, "table3_short", names, jobs=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"epochs of each row; default: {EPOCHS}")
    arguments = parser.parse_args()

    more = [f"paths.data_dir={arguments.data_dir.absolute()}", f"trainer.max_epochs={arguments.epochs}"]
    run(arguments, ROWS, lambda: Sweep(arguments.work, arguments.output, more, base=BASE), describe)


if __name__ == "__main__":
    main()
