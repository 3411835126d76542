"""Facts of a training that no setting states, and that a resumed training must share with its checkpoint."""

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lipnet.functional.digest import json_sha256
from lipnet.functional.fingerprint import counts_as_name, fingerprint, is_known
from lipnet.layers.identity import of_lipnet_or_torch
from lipnet.training.differences import differences
from lipnet.training.distillation import Distillation
from lipnet.training.emma import EMMA
from lipnet.training.length import seconds_of, steps_of
from lipnet.training.schedules import PerStepSchedule

_ADVICE = "resume with that of the checkpoint, or start a new run"


def kept_facts(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the facts: number of processes, extra images, teacher, own code, and length if steps depend on it.

    Args:
        trainer: set up for a training.
        module: the module that it trains.
    """
    facts = {"number of processes": trainer.world_size, **extra_images(trainer), **_own_code(module)}
    return facts | _teacher(module) | _length_behind(trainer, module)


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


def _teacher(module: LightningModule) -> dict[str, Any]:
    """Return the SHA-256 of the teacher's weights by its name; nothing without a teacher."""
    distillation: Distillation | None = getattr(module, "distillation", None)
    return {} if distillation is None else {"SHA-256 of the teacher's weights": distillation.sha256}


def _own_code(module: LightningModule) -> dict[str, Any]:
    """Return the SHA-256 of your own code in the network and the loss, as it is loaded; nothing if there is none.

    It covers the classes of modules, a loss that is a function or an object, and what the files define by name in which
    these are defined, except for a script. Content that cannot be compared is left out.
    """
    parts = [part for name in ("model", "loss") if (part := getattr(module, name, None)) is not None]
    modules = [each for part in parts if isinstance(part, nn.Module) for each in part.modules()]
    own: list[Any] = [type_before_parametrizations(each) for each in modules if not of_lipnet_or_torch(each)]
    own += [part for part in parts if not isinstance(part, nn.Module)]
    files = {file for each in own for file in _files_behind(each)}
    if not files:
        return {}
    defined = {
        f"{file}.{name} {fingerprint(value)}"
        for file in files - {"__main__"}
        for name, value in getattr(sys.modules.get(file), "__dict__", {}).items()
        if not (name.startswith("__") or _is_imported(value, file))
    }
    texts = filter(is_known, {*map(fingerprint, own), *defined})
    return {"SHA-256 of your own code": json_sha256({"code": sorted(texts)})}


def _files_behind(value: Any) -> set[str]:
    """Return the names of your own modules of Python that define a class, a function, or the class of an object."""
    while isinstance(value, functools.partial):
        value = value.func
    if inspect.isroutine(value):
        names = {str(value.__module__)}
    else:
        cls = value if isinstance(value, type) else type(value)
        names = {base.__module__ for base in cls.__mro__ if not counts_as_name(base)}
    return {name for name in names if name.partition(".")[0] not in ("lipnet", "torch")}


def _is_imported(value: Any, file: str) -> bool:
    """Tell whether a name of a module of Python stands for something that another one defines."""
    defined_somewhere = inspect.isclass(value) or inspect.isroutine(value)
    return inspect.ismodule(value) or (defined_somewhere and value.__module__ != file)


def _length_behind(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the steps and the seconds of a training, if its loss or its schedule depends on them."""
    schedule = getattr(module, "_make_scheduler", None)
    over = schedule.over if isinstance(schedule, PerStepSchedule) else None
    grows = isinstance(getattr(module, "loss", None), EMMA)
    steps = {"length in steps": steps_of(trainer)} if grows or over == "steps" else {}
    seconds = {"length in seconds": seconds_of(trainer)} if grows or over == "time" else {}
    return {**steps, **seconds}
