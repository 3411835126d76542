"""Rows and trainings of the transfer study, and the overrides of train.py for each training."""

from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.rows import ROOT

RECIPE = "cpu/cifar100_narrow"
SEEDS = (0, 1, 2)
CORES = 2
# Time of a transfer on two cores. The recipe states the time of a base.
MINUTES = 5.0
BASE = "base"
# Learning rates to choose from: for transfers that freeze most of the network, and for those that train everything.
SMALL, LARGE = (3e-3, 1e-2), (1e-3, 3e-3)


@dataclass(frozen=True)
class Task:
    """Task of experiment=transfer/NAME.

    Attributes:
        title: heading of the task on the page.
        base: data of the base, a choice of the group ``data``.
        training_images: number of images in an epoch, of the base and of the transfer.
        test_images: number of test images of the transfer.
    """

    title: str
    base: str
    training_images: int
    test_images: int


TASKS = {
    "halves": Task("From the classes 0 to 49 to the classes 50 to 99", "cifar100_first_half", 22_500, 5_000),
    "coarse_to_fine": Task("From the 20 coarse classes to the 100 fine ones", "cifar100_coarse", 45_000, 10_000),
}


@dataclass(frozen=True)
class Method:
    """Choice of the parameters that a transfer trains.

    Attributes:
        label: name of the method on the page.
        overrides: overrides of train.py that choose them.
        rates: learning rates to choose from.
    """

    label: str
    overrides: tuple[str, ...]
    rates: tuple[float, float] = SMALL


def _maps(adapter: str, block_size: int, *more: str) -> tuple[str, ...]:
    return (f"adapter={adapter}", f"adapter.block_size={block_size}", *more)


METHODS = {
    "head": Method("head", ("adapter=none",)),
    "gsoft": Method("GSOFT maps, b = 16", _maps("gsoft", 16)),
    "double_gsoft": Method("Double GSOFT maps, b = 8", _maps("double_gsoft", 8)),
    "oft": Method("OFT maps, b = 32", _maps("oft", 32)),
    "boft": Method("BOFT maps, b = 16", _maps("boft", 16)),
    "maps_and_head": Method("GSOFT maps, b = 16, and head", _maps("gsoft", 16, "model.frozen_head=false")),
    "wide_maps_and_head": Method("GSOFT maps, b = 32, and head", _maps("gsoft", 32, "model.frozen_head=false")),
    "everything": Method("everything", ("adapter=none", "model.frozen=false"), LARGE),
}


@dataclass(frozen=True)
class Training:
    """Training of the base of a task, or transfer by a method at a learning rate.

    Attributes:
        task: key of `TASKS`.
        method: key of `METHODS`, or "base".
        rate: learning rate; None for a base, which takes the recipe's.
        seed: seed of everything random.
    """

    task: str
    method: str
    rate: float | None = None
    seed: int = SEEDS[0]

    @property
    def kind(self) -> str:
        """Name shared by all trainings of a task with a method. Their steps take the same time."""
        return f"{self.task}-{self.method}"

    @property
    def name(self) -> str:
        return self.kind if self.method == BASE else f"{self.kind}-rate{self.rate:g}-seed{self.seed}"

    @property
    def minutes(self) -> float:
        """Time of the training on two cores."""
        return recipe_minutes() if self.method == BASE else MINUTES


@dataclass(frozen=True)
class Row:
    """Row of the results: a task, a method and a seed, at the method's chosen learning rate."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.method}-seed{self.seed}"


def methods_of(task: str) -> list[str]:
    """Return the methods of a task.

    From coarse to fine classes, the head has another shape, so every transfer trains a new one. GSOFT maps alone would
    be the same as GSOFT maps and head, and are left out.
    """
    return [name for name in METHODS if task == "halves" or name != "gsoft"]


def bases() -> list[Training]:
    """Return the training of each task's base."""
    return [Training(task, BASE) for task in TASKS]


def trials() -> list[Training]:
    """Return the trainings that choose the learning rates, at the first seed."""
    return [Training(task, name, rate) for task in TASKS for name in methods_of(task) for rate in METHODS[name].rates]


def rows() -> list[Row]:
    """Return the rows of the results."""
    return [Row(task, name, seed) for seed in SEEDS for task in TASKS for name in methods_of(task)]


def overrides_of(training: Training, base: str) -> list[str]:
    """Return the overrides of train.py for a training, without its number of steps.

    Args:
        training: the training.
        base: checkpoint of the task's base; a base ignores it.
    """
    # One split for all: the validation images of a transfer must not be training images of its base.
    common = ["trainer=cpu", "trainer.max_time=null", f"seed={training.seed}", f"data.seed={SEEDS[0]}"]
    if training.method == BASE:
        # A transfer holds out a tenth of the images.
        data = [f"data={TASKS[training.task].base}", "data.validation_fraction=0.1"]
        return [f"experiment={RECIPE}", *data, "scheduler.over=steps", *common]
    stated = [f"experiment=transfer/{training.task}", f"ckpt_path={base}", "scheduler=cosine_warmup", *common]
    return [*stated, *recipe_of_transfers(), *METHODS[training.method].overrides, f"optimizer.lr={training.rate:g}"]


@cache
def recipe() -> DictConfig:
    """Return the configuration of the bases' recipe."""
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        return compose("train", [f"experiment={RECIPE}"], return_hydra_config=True)


def recipe_of_transfers() -> list[str]:
    """Return the overrides that give a transfer the loss, the batch size and the crops of the bases' recipe."""
    config = recipe()
    settings = {key: value for key, value in config.loss.items() if not str(key).startswith("_")}
    loss = [f"loss.{key}={'null' if value is None else value}" for key, value in settings.items()]
    data = [f"data.{key}={config.data[key]}" for key in ("batch_size", "crop_padding")]
    return [f"loss={config.hydra.runtime.choices.loss}", *loss, *data]


def recipe_minutes() -> float:
    """Return the time of the bases' recipe, in minutes."""
    days, hours, minutes, seconds = map(int, recipe().trainer.max_time.split(":"))
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds() / 60
