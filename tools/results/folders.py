"""Result folders: the files of a certified run from which its figures follow."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipnet.certify.files import read_summary, sealed, summary_bytes

CONFIG, RUN, SUMMARY, CURVE = FILES = ("config.yaml", "run.json", "summary.json", "curve.png")
# Keys that the table needs. Reading a file checks them, so that making the table cannot fail on them.
_SUMMARY_KEYS = (
    "average_certified_radius",
    "certified_accuracy",
    "checkpoint_sha256",
    "clean_accuracy",
    "dataset",
    "n_samples",
    "parameters",
    "split",
)
_RUN_KEYS = ("epochs", "finished", "planned_epochs", "seconds", "seed", "starts")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*")
# Files of a run, relative to its folder.
_COMPOSED, _CHECKPOINT = ".hydra/config.yaml", "checkpoints/best.ckpt"
# Paths that replace those of the training's machine.
_PATHS, _TEACHER = {"data_dir": "data", "log_dir": "logs", "output_dir": "RUN"}, "TEACHER"


@dataclass(frozen=True)
class Result:
    """Content of a result folder.

    Attributes:
        name: the folder, relative to the folder of all results.
        config: the run's configuration, resolved.
        run: the record of the training, see `lipnet.training.RunRecord`.
        summary: the summary of the certificates, see `lipnet.certify`.
    """

    name: str
    config: Mapping[str, Any]
    run: Mapping[str, Any]
    summary: Mapping[str, Any]

    def progress(self) -> str:
        """Return ``"200 epochs"``, or ``"cut short at 60 of 200 epochs"``."""
        done, planned = self.run["epochs"], self.run["planned_epochs"]
        if planned is None:
            return f"{done} epochs" if self.run["finished"] else f"cut short after {done} epochs"
        return f"{done} epochs" if done >= planned else f"cut short at {done} of {planned} epochs"


def read_results(root: Path) -> list[Result]:
    """Read every folder below `root` that has a run.json, sorted by name.

    Raises:
        FileNotFoundError, ValueError: see `read_result`.
    """
    folders = sorted(file.parent for file in root.rglob(RUN))
    return [read_result(folder, folder.relative_to(root).as_posix()) for folder in folders]


def read_result(folder: Path, name: str | None = None) -> Result:
    """Read a result folder; its name is the folder's own unless one is given.

    Raises:
        FileNotFoundError: if one of the four files is missing.
        ValueError: if a file cannot be read, was edited or lacks a key, or if the figures are not those of test images.
    """
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no result, it lacks {', '.join(missing)}")
    config = OmegaConf.to_container(_read_config(folder / CONFIG), resolve=True)
    assert isinstance(config, dict)
    summary = _read_certified(folder)
    if summary["split"] != "test":
        raise ValueError(f"{folder / SUMMARY} must be about the test images, got the {summary['split']} images")
    settings = {str(key): value for key, value in config.items()}
    return Result(name or folder.name, settings, _read_json(folder / RUN, _RUN_KEYS), summary)


def add_result(run: Path, name: str, root: Path) -> Result:
    """Make the result `root`/`name` from the folder of a run, whole or not at all.

    It stores the resolved configuration, without the paths of the machine and without loggers.

    Args:
        run: folder of a run of train.py that was certified on the test images.
        name: lower-case letters, digits, ``_``, ``.``, ``-``, and ``/`` between its parts.
        root: folder of all results.

    Raises:
        FileNotFoundError: if the run lacks a file, because it was not certified or has no best checkpoint.
        FileExistsError: if a result of this name exists.
        ValueError: if the name has other characters; if a file cannot be read or was edited; if the figures are not
            those of test images and the best checkpoint; or if the run continues one in another folder, because then
            its total time is unknown.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name of a result must consist of lower-case letters, digits, _, . and -, with / between its parts, "
            f"got {name!r}"
        )
    target = root / name
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another name, or remove it")
    _check_run(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
        partial = Path(scratch, target.name)
        partial.mkdir()
        (partial / CONFIG).write_text(OmegaConf.to_yaml(_portable_config(run)))
        summary = {key: value for key, value in _read_certified(run).items() if key != "sha256"}
        (partial / SUMMARY).write_bytes(summary_bytes(sealed({**summary, "checkpoint": _CHECKPOINT})))
        for file in (RUN, CURVE):
            shutil.copyfile(run / file, partial / file)
        result = read_result(partial, name)
        partial.rename(target)
    return result


def _check_run(run: Path) -> None:
    missing = [file for file in (RUN, SUMMARY, CURVE, _COMPOSED, _CHECKPOINT) if not (run / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{run} cannot become a result, it lacks {', '.join(missing)}: a result needs a run of train.py, certified "
            f"with certify.py ckpt_path={run / _CHECKPOINT} output_dir={run}"
        )
    found = hashlib.sha256((run / _CHECKPOINT).read_bytes()).hexdigest()
    if _read_certified(run)["checkpoint_sha256"] != found:
        raise ValueError(f"{run / SUMMARY} is about another checkpoint than {_CHECKPOINT} is now: certify it again")
    starts = _read_json(run / RUN, ("starts",))["starts"]
    if not starts or starts[0]["first_step"] != 0:
        raise ValueError(f"{run} continues a run in another folder: its total training time is unknown")


def _portable_config(run: Path) -> DictConfig:
    """Return the resolved configuration of a run, without the paths of its machine and without loggers."""
    config = _read_config(run / _COMPOSED)
    config.paths, config.logger = _PATHS, None
    if config.get("distillation"):
        config.distillation.teacher = _TEACHER
    if config.get("ckpt_path"):
        config.ckpt_path = Path(config.ckpt_path).name
    OmegaConf.resolve(config)
    return config


def _read_config(path: Path) -> DictConfig:
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} is no configuration")
    return config


def _read_certified(folder: Path) -> dict[str, Any]:
    return _require_keys(folder / SUMMARY, read_summary(folder / SUMMARY), _SUMMARY_KEYS)


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return _require_keys(path, content, keys)


def _require_keys(path: Path, content: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return dict(content)
