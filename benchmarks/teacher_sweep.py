"""Choose the teacher of experiment=cpu/cifar100: how long it trains, and its share in the labels.

    python -m benchmarks.teacher_sweep --data-dir data
    python -m benchmarks.teacher_sweep --render

The first row learns without a teacher. The others learn from a plain network that is trained by the recipe of
experiment=cpu/cifar100_teacher. Every row has as many steps as 27 minutes of two cores allow, those of its teacher
included. For that, the command times a step of every row before the first training, as `benchmarks.cpu_sweep` does, and
keeps the times in ``step_times.json``: start it on a quiet machine. The last weights are certified on the validation
images; nothing reads the test images. The same command resumes after an interruption.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cpu_sweep import EPOCHS
from benchmarks.pages import RADIUS, percent, read_rows
from benchmarks.step_times import composed, read_step_times, training_images
from benchmarks.sweep import Row, overrides_of, run, sweep_parser
from benchmarks.sweep_report import Description, simplest
from benchmarks.timed_sweep import Length, TimedSweep
from lipnet.models import save_checkpoint

# Time of a row on two cores, its teacher included.
MINUTES = 27.0
BASE = (
    "data=cifar100",
    "conv=gs_soc",
    "conv.groups=[4,1]",
    "conv.paired=false",
    "activation=maxmin_permuted",
    "head=lln",
    "loss=offset_cross_entropy",
    "optimizer=muon",
    "optimizer.lr=0.05",
    "optimizer.steps=3",
    "scheduler=one_cycle",
    "scheduler.pct_start=0.2",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.995",
    "model.patch_rotation=2",
    "model.stages=4",
    "model.depth=4",
    "model.initial_channels=64",
    "model.mirror=true",
    "data/mixing=mixup",
    "data.crop_padding=2",
    "data.batch_size=512",
    "trainer=cpu",
    "trainer.precision=bf16-mixed",
    "certify.split=validation",
    "seed=0",
)
RESNET9 = (
    "~conv ~conv.groups ~conv.paired ~activation ~head ~loss ~optimizer ~optimizer.steps ~model.patch_rotation "
    "~model.stages ~model.depth ~model.initial_channels ~model.mirror ~data/mixing ~data.crop_padding "
    "model=resnet9 model.channels=32 optimizer.lr=0.2 data.batch_size=256"
)
# Teachers by name, with their minutes on two cores.
TEACHERS = {f"teacher_{minutes}": float(minutes) for minutes in (4, 7, 10)}
TEACHER_ROWS = tuple(Row(name, "teacher", tuple(RESNET9.split())) for name in TEACHERS)
TEACHER = "distillation.teacher="


def taught(name: str, group: str, teacher: str, *more: str) -> Row:
    """Return the row of a student."""
    return Row(name, group, ("distillation=default", f"{TEACHER}{teacher}", *more))


ROWS = (
    Row("alone", "base"),
    taught("taught_7", "minutes", "teacher_7"),
    taught("taught_7_weight_0.9", "weight", "teacher_7", "distillation.weight=0.9"),
    taught("taught_10", "minutes", "teacher_10"),
    taught("taught_4", "minutes", "teacher_4"),
    taught("taught_7_channels_48", "network", "teacher_7", "model.initial_channels=48"),
)


def teacher_of(row: Row) -> str | None:
    """Return the name of a row's teacher, or None."""
    return next((each.removeprefix(TEACHER) for each in row.overrides if each.startswith(TEACHER)), None)


def with_path(overrides: Sequence[str], teachers: Path) -> list[str]:
    """Return overrides with the teacher's path, in this folder, in place of its name."""
    return [
        f"{TEACHER}{teachers / each.removeprefix(TEACHER)}" if each.startswith(TEACHER) else each for each in overrides
    ]


class TeacherSweep(TimedSweep):
    """Trains the teachers of its rows, and then the rows, each for the time that its teacher leaves.

    Arguments: see `TimedSweep`. The runs of the teachers are beside those of the rows. The file of a row names its
    teacher without the path.
    """

    def perform(self, rows: Sequence[Row], jobs: int = 1) -> bool:
        wanted = {teacher_of(row) for row in rows}
        teachers = [row for row in TEACHER_ROWS if row.name in wanted]
        return super().perform(teachers, jobs) and super().perform(rows, jobs)

    def length_of(self, row: Row) -> Length:
        left = self.length.minutes - TEACHERS.get(teacher_of(row) or "", 0)
        return replace(self.length, minutes=TEACHERS.get(row.name, left))

    def command_of(self, row: Row, folder: Path) -> list[str]:
        return with_path(super().command_of(row, folder), self.work)


def length_of_rows(more: Sequence[str], file: Path) -> Length:
    """Return the time of the rows and of their steps, which the file keeps; untrained teachers cost the same."""
    rows = [*ROWS, *TEACHER_ROWS]
    with TemporaryDirectory() as folder:
        stated = {row.name: with_path(overrides_of(row, more, BASE), Path(folder)) for row in rows}
        for teacher in TEACHERS:
            module = composed(stated[teacher])[2]
            assert module.description is not None
            checkpoint = Path(folder, teacher, "checkpoints", "best.ckpt")
            checkpoint.parent.mkdir(parents=True)
            save_checkpoint(checkpoint, module.model, module.description["model"], module.description["dataset"])
        seconds = read_step_times(file, stated, threads=2)
        return Length(MINUTES, seconds, training_images(stated[ROWS[0].name]), EPOCHS)


def describe(rows: Sequence[dict[str, Any]], output: Path) -> Description:
    """Return the texts of the page in ``output`` about these rows."""
    summary, teachers = rows[0]["summary"], read_rows(output, TEACHERS)
    accuracies = ", ".join(f"`{name}` {percent(row['summary']['clean_accuracy'])} %" for name, row in teachers.items())
    return Description(
        title="Sweep: the teacher of the recipe for CIFAR-100 on two CPU cores",
        method=[
            "The first row learns without a teacher. The others learn from labels that a plain network has softened. "
            f"Every row has as many steps as {MINUTES:g} minutes of two cores allow on a quiet machine, those of its "
            "teacher included. `teacher_7` has 7 of these minutes, and so on. The last weights are certified in "
            f"{summary['dtype']} on {summary['n_samples']:,} validation images, held out from the training images. "
            "Nothing reads the test images.",
            *([f"Clean accuracy of the teachers on these images: {accuracies}."] if teachers else []),
        ],
        choice=f"`{simplest(rows)['name']}` has the fewest changes among the rows within two standard errors of the "
        f"best one at {RADIUS}.",
        module="benchmarks.teacher_sweep",
    )


def main() -> None:
    parser = sweep_parser(__doc__, "teacher_sweep", [row.name for row in ROWS], jobs=2)
    arguments = parser.parse_args()

    def make() -> TeacherSweep:
        more = [f"paths.data_dir={arguments.data_dir.absolute()}"]
        length = length_of_rows(more, arguments.output / "step_times.json")
        return TeacherSweep(arguments.work, arguments.output, length, BASE, more)

    run(arguments, ROWS, make, partial(describe, output=arguments.output))


if __name__ == "__main__":
    main()
