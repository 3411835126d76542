"""Plan of the transfer study: trained parameters, steps and estimated minutes of the unfinished trainings and rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.common import figure_table
from benchmarks.transfer_rows import BASE, CORES, METHODS, SEEDS, TASKS, Row, Training, bases, recipe, trials

if TYPE_CHECKING:
    from benchmarks.transfer_study import Study

# Time of a certification in float64, as a multiple of the time of the base's training steps on as many images. Measured
# once.
CERTIFICATION = 3


def show(study: "Study", rows: Sequence[Row]) -> None:
    """Print the unfinished trainings and rows, and the sum in hours."""
    # No box, so that the table fits into 80 columns.
    table, total = figure_table("unfinished", "trained", "steps", "minutes", box=None), 0.0
    for name, kind, steps, minutes in estimates(study, rows):
        total += minutes
        table.add_row(name, f"{study.trainings.trained[kind]:,}", f"{steps:,}", f"{minutes:.1f}")
    study.console.print(table)
    study.console.print(
        f"about {total / 60:.1f} hours of {CORES} cores, one thread each, without validation and the start of processes"
    )


def estimates(study: "Study", rows: Sequence[Row]) -> Iterator[tuple[str, str, int, float]]:
    """Yield name, kind, steps and estimated minutes: of unfinished bases and trials, then of unfinished rows.

    The minutes of a row include its certification. A row of the first seed has no steps, because a trial trains it.
    """
    trainings, wanted = study.trainings, {(row.task, row.method) for row in rows}
    minutes_per_step = {kind: seconds / 60 / CORES for kind, seconds in trainings.seconds.items()}
    based = [each for each in bases() if each.task in {task for task, _ in wanted}]
    tried = [each for each in trials() if (each.task, each.method) in wanted]
    for training in [*based, *tried]:
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
