"""Adapt certified networks to other classes: by maps between their layers, by their head, or as a whole.

    python -m benchmarks.transfer_study --data-dir data --plan
    python -m benchmarks.transfer_study --data-dir data
    python -m benchmarks.transfer_study --render

Two bases are trained by experiment=cpu/cifar100_narrow: on the classes 0 to 49 of CIFAR-100, and on its 20 coarse
classes. From each one, transfers go to the other 50 classes and to the 100 fine classes. Two trials of each
method, at the first seed, choose its learning rate by certified accuracy at 36/255 on the validation images. Then the
last weights of three seeds are certified on all test images.

A training has the number of steps that fit into its minutes of two cores. The command measures the processor time of a
step once, for all kinds of training in turns, and keeps it in ``step_times.json``: start with --plan on a quiet
machine. Afterwards, a load on the machine changes no result. The same command resumes after an interruption, also
within a training. Several commands may work on the same folders at once: each training is locked by one of them.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import RowRunner
from benchmarks.studies import best_rate, matching, study_parser
from benchmarks.transfer_plan import show
from benchmarks.transfer_report import write_report
from benchmarks.transfer_rows import METHODS, Row, Training, bases, rows, trials
from benchmarks.transfer_trainings import Trainings, summary_of

# Folder of the test images' certificates, in the folder of a training.
TEST = "test"


class Study(RowRunner[Row]):
    """Runs the rows of the results: certificates of the test images, after the trainings that they need.

    Args:
        trainings: runner of the trainings. The rows share its folders.
    """

    def __init__(self, trainings: Trainings) -> None:
        super().__init__(trainings.work, trainings.output)
        self.trainings = trainings

    def stop(self, *arguments: object) -> None:
        super().stop(*arguments)
        self.trainings.stop(*arguments)

    def run(self, chosen: Sequence[Row], jobs: int = 1) -> bool:
        """Train the bases, then trials and the other seeds, and certify the rows.

        Returns:
            Whether all chosen rows are finished.
        """
        trainings = self.trainings
        # Measure before other threads start, because Hydra composes one configuration at a time.
        _ = trainings.seconds, trainings.trained
        tasks = {row.task for row in chosen}
        if not trainings.perform([each for each in bases() if each.task in tasks], jobs):
            return False
        wanted = {(row.task, row.method) for row in chosen}
        trainings.perform([each for each in trials() if (each.task, each.method) in wanted], jobs)
        ready = [row for row in chosen if trainings.validated(row.task, row.method) is not None]
        trainings.perform([self.training_of(row) for row in ready], jobs)
        trained = [row for row in ready if trainings.file_of(self.training_of(row)).is_file()]
        return self.perform(trained, jobs) and len(trained) == len(chosen)

    def training_of(self, row: Row) -> Training:
        """Return the training of a row, at the best learning rate of its method's trials.

        Raises:
            ValueError: while one of these trials is missing.
        """
        rate = best_rate(row.name, row.method, self.trainings.validated(row.task, row.method))
        return Training(row.task, row.method, rate, row.seed)

    def command_of(self, row: Row, folder: Path) -> list[str]:
        run = self.trainings.folder_of(self.training_of(row))
        data = [each for each in self.trainings.more if each.startswith("paths.data_dir=")]
        return [
            *(sys.executable, "certify.py", str(run), f"output_dir={run / TEST}"),
            *("overwrite=true", "resume=true", *data),
        ]

    def content_of(self, row: Row, folder: Path) -> dict[str, Any]:
        training = self.training_of(row)
        trained = json.loads(self.trainings.file_of(training).read_text())
        return {
            "name": row.name,
            "task": row.task,
            "method": row.method,
            "label": METHODS[row.method].label,
            "seed": row.seed,
            "rate": training.rate,
            "validated": self.trainings.validated(row.task, row.method),
            "trained_parameters": trained["trained_parameters"],
            "run": trained["run"],
            "summary": summary_of(self.trainings.folder_of(training) / TEST),
        }


def main() -> None:
    parser = study_parser(__doc__, "transfer_study", "halves-*-seed0")
    parser.set_defaults(output=Path("results/transfer"))
    arguments = parser.parse_args()

    done = True
    if not arguments.render:
        chosen = matching(rows(), arguments.only)
        more = [f"paths.data_dir={arguments.data_dir.absolute()}"]
        study = Study(Trainings(arguments.work, arguments.output, more))
        if arguments.plan:
            return show(study, chosen)
        study.stop_on_signals()
        done = study.run(chosen, arguments.jobs)
    write_report(arguments.output)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
