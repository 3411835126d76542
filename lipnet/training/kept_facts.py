"""Facts of a training that no setting states, and that a resumed training must share with its checkpoint."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer

from lipnet.training.differences import differences
from lipnet.training.emma import EMMA
from lipnet.training.length import seconds_of, steps_of
from lipnet.training.schedules import PerStepSchedule

_ADVICE = "resume with that of the checkpoint, or start a new run"


def kept_facts(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the number of processes, the digest of the extra images, and the length if the training depends on it.

    Args:
        trainer: set up for a training.
        module: the module that it trains.
    """
    return {"number of processes": trainer.world_size, **extra_images(trainer), **_length_behind(trainer, module)}


def check_facts(stated: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> None:
    """Refuse to resume a training with other facts than its checkpoint's, which are None if it states none.

    Raises:
        ValueError: for each fact that differs.
    """
    values = "" if stated is None else differences(stated, facts, ("in the checkpoint", "here"))
    if values:
        raise ValueError(f"a resumed training keeps what its steps depend on, got {values}: {_ADVICE}")


def extra_images(trainer: Trainer) -> dict[str, Any]:
    """Return the SHA-256 of the extra images of a training's data by its name; nothing without extra images."""
    extra = getattr(trainer.datamodule, "extra", None)  # type: ignore[attr-defined]
    return {} if extra is None else {"SHA-256 of the extra images": extra.sha256}


def _length_behind(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the steps and the seconds of a training, if its loss or its schedule depends on them."""
    schedule = getattr(module, "_make_scheduler", None)
    over = schedule.over if isinstance(schedule, PerStepSchedule) else None
    grows = isinstance(getattr(module, "loss", None), EMMA)
    steps = {"length in steps": steps_of(trainer)} if grows or over == "steps" else {}
    seconds = {"length in seconds": seconds_of(trainer)} if grows or over == "time" else {}
    return {**steps, **seconds}
