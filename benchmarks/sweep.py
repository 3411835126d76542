"""Train a small network for each choice of loss, head, activation, shuffle, schedule and augmentation.

    python -m benchmarks.sweep --data-dir data
    python -m benchmarks.sweep --render

A row is one training of LipConvNet-5 with 16 initial channels on CIFAR-100, in its own folder. It differs from the
first row in one choice, or in a head and a loss. The best epoch is certified on the validation images; nothing reads
the test images. Rows come in order of importance. After an interruption, the same command resumes within the epoch.
Several commands may work on the same folders at once: each row is locked by one of them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.pages import RADIUS
from benchmarks.rows import RowRunner, command_parser, stored_summary
from benchmarks.sweep_report import Description, simplest, write_report

# Last checkpoint of a run. lipnet defines it, too, but importing it there would import torch.
LAST = Path("checkpoints", "last.ckpt")
BASE = (
    "data=cifar100",
    "conv=gs_soc",
    "activation=maxmin_permuted",
    "head=soc",
    "loss=cross_entropy",
    "optimizer=sgd",
    "scheduler=steps",
    "model.depth=5",
    "model.initial_channels=16",
    "trainer=cpu",
    "trainer.max_epochs=10",
    "certify.split=validation",
    "seed=0",
)
QUIET = (
    "logger=[csv]",
    "trainer.enable_progress_bar=false",
    "callbacks.progress_bar=null",
    "callbacks.model_summary=null",
)


@dataclass(frozen=True)
class Row:
    """A training: its name, its subject, and the overrides by which it differs from the base."""

    name: str
    group: str
    overrides: tuple[str, ...] = ()


WORKERS = "data.loader=workers data.num_workers=0"
POOLING = "model/pooling=norm model.stages=4 model.depth=4"
ROWS = tuple(
    Row(name, group, tuple(overrides.split()))
    for name, group, overrides in (
        ("base", "base", ""),
        ("loss_certificate_regularization", "loss", "loss=certificate_regularization"),
        ("loss_offset_cross_entropy", "loss", "loss=offset_cross_entropy"),
        ("head_lln", "head", "head=lln"),
        ("loss_logit_annealing", "loss", "loss=logit_annealing"),
        ("activation_householder", "activation", "activation=householder"),
        ("loss_multiclass_hinge", "loss", "loss=multiclass_hinge"),
        ("activation_maxmin", "activation", "activation=maxmin"),
        ("not_paired", "shuffle", "conv.paired=false"),
        ("head_lln_logit_annealing", "head and loss", "head=lln loss=logit_annealing"),
        ("head_lln_offset_cross_entropy", "head and loss", "head=lln loss=offset_cross_entropy"),
        ("base_seed_1", "base", "seed=1"),
        ("groups_4_4", "groups", "conv.groups=[4,4]"),
        ("schedule_one_cycle", "schedule", "scheduler=one_cycle"),
        ("average", "average", "callbacks=[default,ema]"),
        ("head_lln_certificate_regularization", "head and loss", "head=lln loss=certificate_regularization"),
        ("soc", "groups", "conv=soc"),
        ("groups_4_1", "groups", "conv.groups=[4,1]"),
        ("activation_householder2", "activation", "activation=householder2"),
        ("schedule_cosine_warmup", "schedule", "scheduler=cosine_warmup"),
        ("optimizer_adamw", "optimizer", "optimizer=adamw"),
        ("mixup", "augmentation", "data/mixing=mixup"),
        ("trivial_augment", "augmentation", f"data/policy=trivial_augment {WORKERS}"),
        ("no_augmentation", "augmentation", "data.augment=false"),
        ("crop_1", "augmentation", "data.crop_padding=1"),
        ("no_crop", "augmentation", "data.crop_padding=0"),
        ("stages_4", "pooling", "model.stages=4 model.depth=4"),
        ("pooling_norm", "pooling", POOLING),
    )
)


def overrides_of(row: Row, more: Sequence[str] = (), base: Sequence[str] = BASE) -> list[str]:
    """Return the overrides of a row's training: base, row and ``more``.

    Row and ``more`` replace those of the base. ``~KEY`` leaves out the base's override of KEY.
    """
    stated = [*row.overrides, *more]
    replaced = {each.partition("=")[0].removeprefix("~") for each in stated}
    shared = [*base, *QUIET]
    left_out = {f"~{each.partition('=')[0]}" for each in shared}
    kept = [each for each in shared if each.partition("=")[0] not in replaced]
    return [*kept, *(each for each in stated if each not in left_out)]


class Sweep(RowRunner[Row]):
    """Runs trainings of rows.

    Args:
        work, output, threads: see `RowRunner`.
        more: overrides that apply to every row.
        base: overrides that apply to every row, unless the row or ``more`` replaces them.
    """

    def __init__(
        self, work: Path, output: Path, more: Sequence[str] = (), threads: int = 1, base: Sequence[str] = BASE
    ) -> None:
        super().__init__(work, output, threads)
        self.more, self.base = tuple(more), tuple(base)

    def overrides_of(self, row: Row) -> list[str]:
        """Return the overrides of a row's training."""
        return overrides_of(row, self.more, self.base)

    def command_of(self, row: Row, folder: Path) -> list[str]:
        last = folder / LAST
        resumed = [f"ckpt_path={last}"] if last.is_file() else []
        return [sys.executable, "train.py", *self.overrides_of(row), f"hydra.run.dir={folder}", *resumed]

    def content_of(self, row: Row, folder: Path) -> dict[str, Any]:
        summary = stored_summary(folder)
        if summary["split"] != "validation":
            raise ValueError(f"split of a sweep must be 'validation', got {summary['split']!r} in {folder}")
        shown = [each for each in self.overrides_of(row) if not each.startswith("paths.") and each not in QUIET]
        run = json.loads((folder / "run.json").read_text())
        content = {"name": row.name, "group": row.group, "change": row.overrides, "overrides": shown}
        return {**content, "summary": summary, "run": run}


def describe(rows: Sequence[dict[str, Any]]) -> Description:
    """Return the texts of the page about these rows."""
    summary = rows[0]["summary"]
    return Description(
        title="Sweep: which choices help certified accuracy",
        method=[
            "Each row is one training of a small network. It differs from the first row in one choice, or in a head "
            f"and a loss. No setting was tuned. The epoch with the best certified accuracy at {RADIUS} is certified in "
            f"{summary['dtype']} on {summary['n_samples']:,} validation images, held out from the training images of "
            f"{summary['dataset']}. The same images select the epoch, so all figures are slightly optimistic. Nothing "
            "reads the test images."
        ],
        choice="The defaults of `lipnet/conf/train.yaml` are the choices of "
        f"`{simplest(rows)['name']}`: among the rows within two standard errors of the best one, it has the fewest "
        "changes.",
        module="benchmarks.sweep",
    )


def sweep_parser(description: str | None, name: str, names: Sequence[str], jobs: int) -> argparse.ArgumentParser:
    """Return the parser of a sweep's command, whose rows have these names."""
    parser = command_parser(description, name)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="rows; default: all")
    parser.add_argument("--jobs", type=int, default=jobs, help=f"number of trainings at a time; default: {jobs}")
    return parser


def run(
    arguments: argparse.Namespace,
    rows: Sequence[Row],
    make: Callable[[], Sweep],
    describe: Callable[[Sequence[dict[str, Any]]], Description],
) -> NoReturn:
    """Run the rows of a sweep that its command asks for, write the report, and exit.

    Args:
        arguments: of the `sweep_parser`.
        rows: all rows; the report begins with the first.
        make: makes the sweep; not called with ``--render``.
        describe: returns the texts of the report.
    """
    done = True
    if not arguments.render:
        sweep = make()
        sweep.stop_on_signals()
        done = sweep.perform([row for row in rows if row.name in arguments.only], arguments.jobs)
    write_report(arguments.output, [row.name for row in rows], describe)
    sys.exit(0 if done else 1)


def main() -> None:
    names = [row.name for row in ROWS]
    parser = sweep_parser(__doc__, "sweep", names, jobs=1)
    parser.add_argument("--threads", type=int, default=1, help="number of threads of each training")
    arguments = parser.parse_args()

    data = [f"paths.data_dir={arguments.data_dir.absolute()}"]
    run(arguments, ROWS, lambda: Sweep(arguments.work, arguments.output, data, arguments.threads), describe)


if __name__ == "__main__":
    main()
