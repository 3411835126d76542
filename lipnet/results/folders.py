"""A result: the folder of a certified run, with all that its figures rest on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lipnet.certify.files import read_summary

CONFIG, RUN, SUMMARY, CURVE = FILES = ("config.yaml", "run.json", "summary.json", "curve.png")
# What is read from the files, so that a folder without it is found when it is read and not when it is shown.
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


@dataclass(frozen=True)
class Result:
    """What a result folder holds.

    Attributes:
        name: the folder, relative to that of all results.
        config: the run's configuration, resolved.
        run: how it was trained: see `lipnet.training.RunRecord`.
        summary: what was certified of it: see `lipnet.certify`.
    """

    name: str
    config: Mapping[str, Any]
    run: Mapping[str, Any]
    summary: Mapping[str, Any]

    def progress(self) -> str:
        """How far the training came: ``"200 epochs"``, or ``"cut short at 60 of 200 epochs"``."""
        done, planned = self.run["epochs"], self.run["planned_epochs"]
        if planned is None:
            return f"{done} epochs" if self.run["finished"] else f"cut short after {done} epochs"
        return f"{done} epochs" if done >= planned else f"cut short at {done} of {planned} epochs"


def read_result(folder: Path, name: str | None = None) -> Result:
    """Read a result folder.

    Args:
        folder: holds config.yaml, run.json, summary.json and curve.png.
        name: of the result; None for the folder's own.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: for a file that cannot be read, is not as it was written or lacks what belongs into it, and for
            figures of other images than the test images.
    """
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is no result: {', '.join(missing)} missing")
    config = OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} is no configuration")
    summary = read_certified(folder)
    if summary["split"] != "test":
        raise ValueError(
            f"{folder / SUMMARY} is about the {summary['split']} images; a result is about the test images"
        )
    settings = {str(key): value for key, value in config.items()}
    return Result(name or folder.name, settings, read_json(folder / RUN, _RUN_KEYS), summary)


def read_results(root: Path) -> list[Result]:
    """Read every result below a folder, by name; a folder with a run.json is one.

    Raises:
        FileNotFoundError, ValueError: as `read_result`.
    """
    folders = sorted(file.parent for file in root.rglob(RUN))
    return [read_result(folder, folder.relative_to(root).as_posix()) for folder in folders]


def read_certified(folder: Path) -> dict[str, Any]:
    """Read the summary of a folder's certificates.

    Raises:
        ValueError: if it is not as it was written, or is none of a certification.
    """
    return _checked(folder / SUMMARY, read_summary(folder / SUMMARY), _SUMMARY_KEYS)


def read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a JSON file that holds these keys.

    Raises:
        ValueError: if it is no JSON or lacks one of them.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return _checked(path, content, keys)


def _checked(path: Path, content: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}")
    return dict(content)
