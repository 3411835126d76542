"""Facts of a training that no setting states, and that a resumed training must share with its checkpoint."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lipnet.functional.digest import json_sha256
from lipnet.functional.fingerprint import counts_as_name, fingerprint, is_known
from lipnet.layers.identity import of_lipnet_or_torch
from lipnet.training.differences import differences
from lipnet.training.emma import EMMA
from lipnet.training.length import seconds_of, steps_of
from lipnet.training.schedules import PerStepSchedule

_ADVICE = "resume with that of the checkpoint, or start a new run"


def kept_facts(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the facts: number of processes, extra images, code of your own modules, and length if steps depend on it.

    Args:
        trainer: set up for a training.
        module: the module that it trains.
    """
    facts = {"number of processes": trainer.world_size, **extra_images(trainer), **_own_code(module)}
    return facts | _length_behind(trainer, module)


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


def _own_code(module: LightningModule) -> dict[str, Any]:
    """Return the SHA-256 of the code of your own modules in the network and the loss; nothing if there are none.

    It covers their classes and the files of these, but not comments, and of a script's classes the classes alone.
    Classes with content that cannot be compared are left out.
    """
    parts = (getattr(module, name, None) for name in ("model", "loss"))
    modules = (each for part in parts if isinstance(part, nn.Module) for each in part.modules())
    own = {type_before_parametrizations(each) for each in modules if not of_lipnet_or_torch(each)}
    classes = {base for cls in own for base in cls.__mro__ if not counts_as_name(base)}
    named = {sys.modules.get(cls.__module__) for cls in classes if cls.__module__ != "__main__"}
    files = {Path(getattr(each, "__file__", None) or "") for each in named}
    codes = [compile(file.read_bytes(), "", "exec") for file in files if file.suffix == ".py" and file.is_file()]
    texts = sorted({text for each in (*classes, *codes) if is_known(text := fingerprint(each))})
    return {"SHA-256 of the code of your own modules": json_sha256({"code": texts})} if texts else {}


def _length_behind(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the steps and the seconds of a training, if its loss or its schedule depends on them."""
    schedule = getattr(module, "_make_scheduler", None)
    over = schedule.over if isinstance(schedule, PerStepSchedule) else None
    grows = isinstance(getattr(module, "loss", None), EMMA)
    steps = {"length in steps": steps_of(trainer)} if grows or over == "steps" else {}
    seconds = {"length in seconds": seconds_of(trainer)} if grows or over == "time" else {}
    return {**steps, **seconds}
