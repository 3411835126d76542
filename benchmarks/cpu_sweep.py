"""Search the recipe of experiment=cpu/cifar100 with trainings of five minutes.

    python -m benchmarks.cpu_sweep --data-dir data
    python -m benchmarks.cpu_sweep --render

A row differs from the recipe of the first row in what its overrides state. Its number of steps is what five minutes of
two cores allow: the steps of all rows are timed first, one after the other in several rounds, and the times are kept in
``step_times.json``. What else the machine does meanwhile therefore changes no result. The last weights are certified on
the validation images; the test images are not read. The same command resumes after an interruption.
"""

import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.step_times import read_step_times
from benchmarks.sweep import Row, Sweep, overrides_of, parser_of
from benchmarks.sweep_report import RADIUS, Description, simplest, write_report

SECONDS, EPOCHS = 300, 4
# Training images beside the validation images, and the recipe's batch size.
IMAGES, BATCH_SIZE = 45_000, 128
BASE = (
    "experiment=cpu/cifar100",
    "scheduler=one_cycle",
    "scheduler.pct_start=0.2",
    "trainer.max_time=null",
    f"trainer.max_epochs={EPOCHS}",
    f"trainer.check_val_every_n_epoch={EPOCHS}",
    "certify.split=validation",
    "seed=0",
)
LIRESNET = (
    "~conv.paired ~conv.groups ~model.initial_channels model=liresnet model.depth=4 model.channels=64 "
    "model.stem_stride=2 model.dense_features=512 model.dense_depth=2 optimizer=nadam optimizer.lr=0.002"
)
LIPNEXT = (
    "~model.initial_channels model=lipnext model.patch_size=4 model.depth=6 model.channels=192 "
    "optimizer=nadam optimizer.lr=0.01"
)
ROWS = tuple(
    Row(name, group, tuple(overrides.split()))
    for name, group, overrides in (
        ("base", "base", ""),
        ("lr_0.2", "rate", "optimizer.lr=0.2"),
        ("lr_0.4", "rate", "optimizer.lr=0.4"),
        ("muon_0.02", "optimizer", "optimizer=muon optimizer.lr=0.02 optimizer.weight_decay=0"),
        ("batch_64", "batch", "data.batch_size=64"),
        ("no_crop", "augmentation", "data.crop_padding=0"),
        ("muon_0.05", "optimizer", "optimizer=muon optimizer.lr=0.05 optimizer.weight_decay=0"),
        ("muon_3_steps", "optimizer", "optimizer=muon optimizer.lr=0.02 optimizer.weight_decay=0 optimizer.steps=3"),
        (
            "muon_biases",
            "optimizer",
            "optimizer=muon optimizer.lr=0.02 optimizer.weight_decay=0 optimizer.rest_lr=0.01",
        ),
        ("no_crop_lr_0.2", "combination", "data.crop_padding=0 optimizer.lr=0.2"),
        (
            "no_crop_muon",
            "combination",
            "data.crop_padding=0 optimizer=muon optimizer.lr=0.02 optimizer.weight_decay=0",
        ),
        ("logit_annealing", "loss", "loss=logit_annealing"),
        ("patches", "network", "model.patch_rotation=4 model.stages=3 model.depth=3 model.initial_channels=64"),
        ("nadam", "optimizer", "optimizer=nadam optimizer.lr=0.002"),
        ("temperature_0.5", "loss", "loss.temperature=0.5"),
        ("channels_24", "network", "model.initial_channels=24"),
        ("emma", "loss", "loss=emma"),
        ("no_weight_decay", "rate", "optimizer.weight_decay=0"),
        ("offset_72", "loss", "loss.radius=72/255"),
        ("alternating_flip", "augmentation", "data.flip=alternating"),
        ("bias_lr_16", "rate", "bias_lr_factor=16"),
        ("lookahead", "optimizer", "lookahead=default"),
        ("depth_10", "network", "model.depth=10"),
        ("annealed_emma", "loss", "loss=annealed_emma"),
        ("muon_0.005", "optimizer", "optimizer=muon optimizer.lr=0.005 optimizer.weight_decay=0"),
        ("batch_256", "batch", "data.batch_size=256"),
        ("temperature_0.125", "loss", "loss.temperature=0.125"),
        ("liresnet", "network", LIRESNET),
        ("lipnext", "network", LIPNEXT),
        ("soc", "network", "conv=soc ~conv.paired conv.groups=1"),
        ("bro", "network", "conv=bro ~conv.paired conv.groups=1"),
        ("aol", "network", "conv=aol ~conv.paired conv.groups=1 optimizer.lr=0.01"),
    )
)


class CPUSweep(Sweep):
    """A sweep whose rows have the steps that fit into the same time.

    Args:
        seconds: time of a step of each row.
        work, output, more, threads: as for `Sweep`.
    """

    def __init__(
        self, seconds: dict[str, float], work: Path, output: Path, more: Sequence[str] = (), threads: int = 1
    ) -> None:
        super().__init__(work, output, more, threads, BASE)
        self.seconds = seconds

    def overrides_of(self, row: Row) -> list[str]:
        stated = super().overrides_of(row)
        sizes = [int(each.partition("=")[2]) for each in stated if each.startswith("data.batch_size=")]
        steps = SECONDS / self.seconds[row.name]
        # An epoch has no more batches than images, and validation comes after the last one alone.
        epochs = max(EPOCHS, ceil(steps * (sizes or [BATCH_SIZE])[-1] / IMAGES))
        length = [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"]
        names = ("trainer.max_epochs=", "trainer.check_val_every_n_epoch=")
        kept = [each for each in stated if not each.startswith(names)]
        return [*kept, *length, f"trainer.limit_train_batches={round(steps / epochs)}"]


def describe(rows: Sequence[dict[str, Any]]) -> Description:
    """Return the texts of the report on these rows."""
    summary = rows[0]["summary"]
    return Description(
        title="Sweep: the recipe for CIFAR-100 on two CPU cores",
        method=[
            f"Each row is one training of as many steps as {SECONDS // 60} minutes of two cores allow on a quiet "
            "machine: fewer, where a step takes longer. It differs from the recipe of the first row in what "
            f"its overrides state. The last weights are certified in {summary['dtype']} on {summary['n_samples']:,} "
            "validation images, held out from the training images. The test images are not read."
        ],
        choice=f"`{simplest(rows)['name']}` has the fewest changes among the rows within two standard errors of the "
        f"best one at {RADIUS}.",
        module="benchmarks.cpu_sweep",
    )


def main() -> None:
    names = [row.name for row in ROWS]
    arguments = parser_of(__doc__, "cpu_sweep", names, jobs=2).parse_args()

    done = True
    if not arguments.render:
        more = [f"paths.data_dir={Path(arguments.data_dir).absolute()}"]
        stated = {row.name: overrides_of(row, more, BASE) for row in ROWS}
        seconds = read_step_times(arguments.output / "step_times.json", stated, threads=2)
        sweep = CPUSweep(seconds, arguments.work, arguments.output, more)
        sweep.stop_on_signals()
        done = sweep.perform([row for row in ROWS if row.name in arguments.only], arguments.jobs)
    write_report(arguments.output, names, describe)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
