"""Search the recipe of experiment=cpu/cifar100 with trainings of five minutes.

    python -m benchmarks.cpu_sweep --data-dir data
    python -m benchmarks.cpu_sweep --render
    python -m benchmarks.cpu_sweep --data-dir data --minutes 27 --only base patches --output results/cpu_sweep_27min

The overrides of a row change the recipe of the first version, ``base``. A row has as many steps as five minutes of two
cores allow, or ``--minutes``, with which the best rows compete again. For that, the command times a step of every row
before the first training, in several rounds, and keeps the times in ``step_times.json``. So a load on the machine
during the trainings changes no result. The last weights are certified on the validation images; nothing reads the test
images. The same command resumes after an interruption.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.pages import RADIUS
from benchmarks.step_times import read_step_times, training_images
from benchmarks.sweep import Row, overrides_of, run, sweep_parser
from benchmarks.sweep_report import Description, simplest
from benchmarks.timed_sweep import Length, TimedSweep

# Time of a training on two cores, and its smallest number of epochs.
MINUTES, EPOCHS = 5.0, 4
# The recipe of the first version: the rows are changes to it.
BASE = (
    "data=cifar100",
    "conv=gs_soc",
    "conv.groups=[4,1]",
    "conv.paired=true",
    "activation=maxmin_permuted",
    "head=lln",
    "loss=offset_cross_entropy",
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "optimizer.weight_decay=5e-4",
    "scheduler=one_cycle",
    "scheduler.pct_start=0.2",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.995",
    "model.depth=5",
    "model.initial_channels=16",
    "data.batch_size=128",
    "data.crop_padding=1",
    "trainer=cpu",
    "certify.split=validation",
    "seed=0",
)
MUON = "optimizer=muon optimizer.lr=0.02 optimizer.weight_decay=0"
SIXTEEN_BY_SIXTEEN = "model.patch_rotation=2 model.stages=4 conv.paired=false"
PATCHES_2 = f"{SIXTEEN_BY_SIXTEEN} model.depth=4 model.initial_channels=32"
EIGHT_BY_EIGHT = "model.patch_rotation=4 model.stages=3"
PATCHES = f"{EIGHT_BY_EIGHT} model.depth=3 model.initial_channels=64"
LIRESNET = (
    "~conv.paired ~conv.groups ~model.initial_channels model=liresnet model.depth=4 model.channels=64 "
    "model.stem_stride=2 model.dense_features=512 model.dense_depth=2 optimizer=nadam optimizer.lr=0.002"
)
LIPNEXT = (
    "~model.initial_channels model=lipnext model.patch_size=4 model.depth=6 model.channels=192 "
    "optimizer=nadam optimizer.lr=0.01"
)


def muon(lr: float) -> str:
    """Return the overrides for Muon with three steps of its iteration."""
    return f"optimizer=muon optimizer.lr={lr} optimizer.weight_decay=0 optimizer.steps=3"


WINNER = f"{PATCHES_2} {muon(0.05)} data.batch_size=256"
WINNER_512 = f"{PATCHES_2} {muon(0.05)} data.batch_size=512"
MIXUP_2 = "data/mixing=mixup data.crop_padding=2"
BF16 = "trainer.precision=bf16-mixed"
# Blocks of constant width on maps of 8 x 8.
LIRESNET_MUON = (
    "~conv.paired ~conv.groups ~model.initial_channels model=liresnet model.depth=6 model.channels=128 "
    "model.stem_stride=4 model.neck_patch_size=2 model.dense_features=512 model.dense_depth=2 "
    f"{muon(0.05)} data.batch_size=256 {BF16}"
)

ROWS = tuple(
    Row(name, group, tuple(overrides.split()))
    for name, group, overrides in (
        ("base", "base", ""),
        ("lr_0.2", "rate", "optimizer.lr=0.2"),
        ("lr_0.4", "rate", "optimizer.lr=0.4"),
        ("muon_0.02", "optimizer", MUON),
        ("batch_64", "batch", "data.batch_size=64"),
        ("no_crop", "augmentation", "data.crop_padding=0"),
        ("muon_0.05", "optimizer", "optimizer=muon optimizer.lr=0.05 optimizer.weight_decay=0"),
        ("muon_3_steps", "optimizer", muon(0.02)),
        ("muon_biases", "optimizer", f"{MUON} optimizer.rest_lr=0.01"),
        ("no_crop_lr_0.2", "combination", "data.crop_padding=0 optimizer.lr=0.2"),
        ("no_crop_muon", "combination", f"data.crop_padding=0 {MUON}"),
        ("logit_annealing", "loss", "loss=logit_annealing"),
        ("patches", "network", PATCHES),
        ("patches_96", "network", f"{EIGHT_BY_EIGHT} model.depth=3 model.initial_channels=96"),
        ("patches_depth_6", "network", f"{EIGHT_BY_EIGHT} model.depth=6 model.initial_channels=64"),
        ("patches_depth_9", "network", f"{EIGHT_BY_EIGHT} model.depth=9 model.initial_channels=64"),
        ("patches_2", "network", PATCHES_2),
        ("patches_2_depth_8", "network", f"{SIXTEEN_BY_SIXTEEN} model.depth=8 model.initial_channels=32"),
        ("patches_lr_0.2", "combination", f"{PATCHES} optimizer.lr=0.2"),
        ("patches_no_crop_lr_0.2", "combination", f"{PATCHES} data.crop_padding=0 optimizer.lr=0.2"),
        ("patches_2_lr_0.2", "combination", f"{PATCHES_2} optimizer.lr=0.2"),
        ("patches_no_crop_muon", "combination", f"{PATCHES} data.crop_padding=0 {MUON}"),
        ("muon_batch_256", "combination", f"{muon(0.02)} data.batch_size=256"),
        ("muon_batch_512", "combination", f"{muon(0.02)} data.batch_size=512"),
        ("patches_2_muon_batch_256", "combination", f"{PATCHES_2} {muon(0.02)} data.batch_size=256"),
        ("patches_2_muon_0.05_batch_256", "combination", WINNER),
        ("patches_2_muon_0.1_batch_256", "combination", f"{PATCHES_2} {muon(0.1)} data.batch_size=256"),
        ("patches_2_muon_batch_512", "combination", f"{PATCHES_2} {muon(0.02)} data.batch_size=512"),
        ("patches_2_muon_0.05_batch_512", "combination", WINNER_512),
        ("patches_2_muon_no_crop", "augmentation", f"{WINNER} data.crop_padding=0"),
        ("patches_2_muon_crop_2", "augmentation", f"{WINNER} data.crop_padding=2"),
        ("patches_2_muon_crop_4", "augmentation", f"{WINNER} data.crop_padding=4"),
        ("patches_2_muon_mirror", "network", f"{WINNER} model.mirror=true"),
        ("patches_2_muon_mixup", "augmentation", f"{WINNER} data/mixing=mixup"),
        ("patches_2_muon_mixup_no_crop", "augmentation", f"{WINNER} data/mixing=mixup data.crop_padding=0"),
        ("patches_2_muon_mixup_crop_2", "augmentation", f"{WINNER} {MIXUP_2}"),
        ("patches_2_muon_cutmix", "augmentation", f"{WINNER} data/mixing=cutmix"),
        ("patches_2_muon_householder", "activation", f"{WINNER} activation=householder"),
        ("patches_2_muon_certificate_regularization", "loss", f"{WINNER} loss=certificate_regularization"),
        ("patches_2_muon_weight_decay", "rate", f"{WINNER} optimizer.weight_decay=0.1"),
        ("patches_2_muon_batch_128", "batch", f"{WINNER} data.batch_size=128"),
        ("patches_2_muon_ema_0.999", "average", f"{WINNER} callbacks.ema.decay=0.999"),
        ("patches_2_muon_depth_8", "network", f"{WINNER} model.depth=8"),
        ("patches_2_muon_channels_48", "network", f"{WINNER} model.initial_channels=48"),
        ("patches_2_muon_channels_64_bf16", "network", f"{WINNER} model.initial_channels=64 {BF16}"),
        (
            "patches_2_muon_channels_64_bf16_mixup_crop_2",
            "network",
            f"{WINNER} model.initial_channels=64 {BF16} {MIXUP_2}",
        ),
        (
            "patches_2_muon_channels_64_bf16_mixup_crop_2_batch_512",
            "network",
            f"{WINNER_512} model.initial_channels=64 {BF16} {MIXUP_2}",
        ),
        (
            "patches_2_muon_channels_96_bf16_mixup_batch_512",
            "network",
            f"{WINNER_512} model.initial_channels=96 {BF16} data/mixing=mixup",
        ),
        (
            "patches_2_muon_channels_96_bf16_mixup_crop_2_batch_512",
            "network",
            f"{WINNER_512} model.initial_channels=96 {BF16} {MIXUP_2}",
        ),
        (
            "patches_2_muon_channels_96_bf16_mixup_crop_2_batch_512_stages_3",
            "network",
            f"{WINNER_512} model.initial_channels=96 {BF16} {MIXUP_2} model.stages=3 model.depth=3",
        ),
        ("patches_2_muon_groups_4_4", "network", f"{WINNER} conv.groups=[4,4]"),
        ("patches_2_muon_temperature_0.5", "loss", f"{WINNER} loss.temperature=0.5"),
        ("patches_2_muon_temperature_0.125", "loss", f"{WINNER} loss.temperature=0.125"),
        ("patches_2_muon_offset_72", "loss", f"{WINNER} loss.radius=72/255"),
        ("patches_2_muon_logit_annealing", "loss", f"{WINNER} loss=logit_annealing"),
        ("patches_2_muon_emma", "loss", f"{WINNER} loss=emma"),
        ("patches_2_muon_rest_lr_0.01", "optimizer", f"{WINNER} optimizer.rest_lr=0.01"),
        ("patches_2_muon_groups_2_1", "network", f"{WINNER} conv.groups=[2,1]"),
        ("patches_2_muon_channels_40", "network", f"{WINNER} model.initial_channels=40"),
        ("patches_muon_0.05_batch_256", "combination", f"{PATCHES} {muon(0.05)} data.batch_size=256"),
        ("patches_batch_64", "combination", f"{PATCHES} data.batch_size=64"),
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
        ("liresnet_patches_muon_bf16", "network", LIRESNET_MUON),
        ("soc", "network", "conv=soc ~conv.paired ~conv.groups"),
        ("bro", "network", "conv=bro ~conv.paired ~conv.groups"),
        ("aol", "network", "conv=aol ~conv.paired ~conv.groups optimizer.lr=0.01"),
    )
)


def describe(rows: Sequence[dict[str, Any]], output: Path, minutes: float = MINUTES) -> Description:
    """Return the texts of the page in ``output`` about these rows, of this many minutes each."""
    summary, selected = rows[0]["summary"], minutes != MINUTES
    options = f" --minutes {minutes:g} --output {output}" if selected else ""
    return Description(
        title=f"Sweep: the recipe for CIFAR-100 on two CPU cores{f', {minutes:g} minutes' if selected else ''}",
        method=[
            "The overrides of a row change the recipe of the first version, `base`. Each row "
            f"is one training of as many steps as {minutes:g} minutes of two cores allow on a quiet machine, so rows "
            "with slower steps have fewer. The last weights are certified in "
            f"{summary['dtype']} on {summary['n_samples']:,} "
            "validation images, held out from the training images. Nothing reads the test images."
        ],
        choice=f"`{simplest(rows)['name']}` has the fewest changes among the rows within two standard errors of the "
        f"best one at {RADIUS}.",
        module=f"benchmarks.cpu_sweep{options}",
        selected=selected,
    )


def main() -> None:
    names = [row.name for row in ROWS]
    parser = sweep_parser(__doc__, "cpu_sweep", names, jobs=2)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"time of a row; default: {MINUTES:g}")
    arguments = parser.parse_args()

    def timed() -> TimedSweep:
        more = [f"paths.data_dir={arguments.data_dir.absolute()}"]
        stated = {row.name: overrides_of(row, more, BASE) for row in ROWS}
        seconds = read_step_times(arguments.output / "step_times.json", stated, threads=2)
        length = Length(arguments.minutes, seconds, training_images(stated[ROWS[0].name]), EPOCHS)
        return TimedSweep(arguments.work, arguments.output, length, BASE, more)

    run(arguments, ROWS, timed, partial(describe, output=arguments.output, minutes=arguments.minutes))


if __name__ == "__main__":
    main()
