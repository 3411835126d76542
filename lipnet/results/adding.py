"""From the folder of a run to a result folder."""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipnet.certify.files import sealed, summary_bytes
from lipnet.results.folders import CONFIG, CURVE, RUN, SUMMARY, Result, read_certified, read_json, read_result

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")
_COMPOSED = Path(".hydra", "config.yaml")
_CHECKPOINT = Path("checkpoints", "best.ckpt")
# What stands for the folders of the machine that trained.
_PLACES = {"data_dir": "data", "log_dir": "logs", "output_dir": "RUN"}


def add_result(run: Path, name: str, root: Path) -> Result:
    """Copy what a result consists of from a run's folder to ``root``/``name``, whole or not at all.

    The configuration is resolved on the way, without the paths of the machine and without loggers.

    Args:
        run: the folder of a run of train.py that was certified on the test images.
        name: of the result: lower-case letters, digits, ``_``, ``.``, ``-``, and ``/`` between its parts.
        root: the folder of all results.

    Returns:
        The result as it was written.

    Raises:
        FileNotFoundError: if the run lacks a file: it is no run, was not certified, or has no best checkpoint.
        FileExistsError: if there is a result of this name.
        ValueError: for another name, for files that are not as they were written, for figures of other images than the
            test images or of another checkpoint than the run's best, and for a run that goes on from one in another
            folder, whose time nobody knows.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a result's name has lower-case letters, digits, _, . and -, and / between them, got {name!r}"
        )
    target = root / name
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another name, or remove it")
    _check(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        (partial / CONFIG).write_text(OmegaConf.to_yaml(portable_config(run)))
        (partial / SUMMARY).write_bytes(summary_bytes(_summary_of(run)))
        for file in (RUN, CURVE):
            shutil.copyfile(run / file, partial / file)
        read_result(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_result(target, name)


def portable_config(run: Path) -> DictConfig:
    """The configuration that a run began with, resolved: without paths of its machine, without loggers."""
    config = OmegaConf.load(run / _COMPOSED)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{run / _COMPOSED} is no configuration")
    config.paths, config.logger = _PLACES, None
    if config.get("ckpt_path"):
        config.ckpt_path = Path(config.ckpt_path).name
    OmegaConf.resolve(config)
    return config


def _check(run: Path) -> None:
    needed = (RUN, SUMMARY, CURVE, str(_COMPOSED), str(_CHECKPOINT))
    missing = [file for file in needed if not (run / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{run} cannot become a result, it lacks {', '.join(missing)}: a result is a run of train.py that was "
            f"certified (certify.py ckpt_path={run / _CHECKPOINT} output_dir={run})"
        )
    summary, record = read_certified(run), read_json(run / RUN, ("starts",))
    found = hashlib.sha256((run / _CHECKPOINT).read_bytes()).hexdigest()
    if summary["checkpoint_sha256"] != found:
        raise ValueError(f"{run / SUMMARY} is about another checkpoint than {_CHECKPOINT} is now: certify that one")
    if not record["starts"] or record["starts"][0]["first_step"] != 0:
        raise ValueError(f"{run} goes on from a run in another folder: how long that took is not known")


def _summary_of(run: Path) -> dict[str, Any]:
    """The summary of a run, with its checkpoint as the run calls it."""
    summary = read_certified(run)
    del summary["sha256"]
    return sealed({**summary, "checkpoint": _CHECKPOINT.as_posix()})
