"""Plan of the transfer study: trained parameters, steps and minutes of what is not finished."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.transfer_rows import BASE, CORES, METHODS, SEEDS, TASKS, Row, Training, bases, recipe, trials

if TYPE_CHECKING:
    from benchmarks.transfer_study import Study

# The time of a certification, in float64, as a multiple of the base's training steps on as many images: measured once.
CERTIFICATION = 3


def show(study: "Study", rows: Sequence[Row]) -> None:
    """Print the unfinished trainings and rows, and the sum in hours."""
    # Without lines, so that it fits into 80 columns.
    table, total = Table(box=None), 0.0
    for heading in ("unfinished", "trained", "steps", "minutes"):
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    for name, kind, steps, minutes in estimates(study, rows):
        total += minutes
        table.add_row(name, f"{study.trainings.trained[kind]:,}", f"{steps:,}", f"{minutes:.1f}")
    study.console.print(table)
    study.console.print(
        f"about {total / 60:.1f} hours of {CORES} cores, one thread each, without validation and the start of processes"
    )


def estimates(study: "Study", rows: Sequence[Row]) -> Iterator[tuple[str, str, int, float]]:
    """Yield name, kind, steps and estimated minutes of unfinished trainings, and of rows with their certification.

    Bases and trials come first. A row of the first seed has been trained by a trial.
    """
    trainings, wanted = study.trainings, {(row.task, row.method) for row in rows}
    minutes_per_step = {kind: seconds / 60 / CORES for kind, seconds in trainings.seconds.items()}
    tried = [each for each in trials() if (each.task, each.method) in wanted]
    for training in [*bases(), *tried]:
        if not trainings.file_of(training).is_file():
            steps = trainings.steps_of(training)
            yield training.name, training.kind, steps, steps * minutes_per_step[training.kind]
    for row in rows:
        if study.file_of(row).is_file():
            continue
        # All learning rates of a method have the same steps.
        training = Training(row.task, row.method, METHODS[row.method].rates[0], row.seed)
        steps = 0 if row.seed == SEEDS[0] else trainings.steps_of(training)
        batches = CERTIFICATION * TASKS[row.task].test_images / recipe().data.batch_size
        certification = batches * minutes_per_step[Training(row.task, BASE).kind]
        yield row.name, training.kind, steps, steps * minutes_per_step[training.kind] + certification
