"""Find settings that nothing reads: misspelt ones, which Hydra adds after a plus sign, and parts that no model has."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lipnet.workflows.certification import certify_checkpoint

TRAINING = (
    *("data", "model", "loss", "distillation", "optimizer", "lookahead", "scheduler", "trainer", "callbacks", "logger"),
    *("paths", "certify", "task_name", "ckpt_path", "transfer", "trust", "seed", "radii", "bias_lr_factor"),
    *("manifold_lr", "compile"),
)
"""Settings that a training reads."""
PARTS = ("conv", "activation", "head", "adapter")
"""Groups of a training that only count if the model refers to them."""
CERTIFICATION = (
    *("ckpt_path", "pretrained", "verify", "trainer", "data", "split", "seed", "n_samples", "batch_size", "dtype"),
    *("device", "attack", "report", "compare", "radii", "output_dir", "overwrite", "resume", "layers", "paths"),
)
"""Settings that a certification reads."""
_PACKAGED = Path(__file__).parents[1] / "conf"
_PLACES = ("data_dir", "log_dir", "output_dir")
# Arguments of `certify_checkpoint` that a training sets itself, or cannot set.
_SET_BY_TRAINING = ("ckpt_path", "output_dir", "data", "overwrite", "resume", "launched")
_INSTEAD = {
    "radii": "set radii, which the whole training has",
    "trust": "set trust, which the whole training has",
    "data_dir": "a training certifies its own data, set data.data_dir or paths.data_dir",
    "attack": "attack the finished run, certify.py RUN attack=pgd",
}


def check_read(config: DictConfig, read: Iterable[str], parts: Iterable[str] = ()) -> None:
    """Refuse settings that have no effect, and warn of chosen parts that have none.

    A setting has an effect if the program reads it, or if such a setting, or one of Hydra's, refers to it as in
    ``${width}``. Hydra refuses unknown settings, but suggests a plus sign, with which it accepts any name.

    Args:
        config: of a training or a certification.
        read: names of the settings that the program reads.
        parts: names of groups that may stay without effect. There is a warning if the command line chooses one.

    Raises:
        ValueError: for a setting without effect, naming similar ones, or a file of ``--config-dir`` without effect.
    """
    read = tuple(read)
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    mentioned = _mentioned({name: plain.get(name) for name in read}, plain)
    unread = [str(name) for name in plain if name not in (*read, *parts) and name not in mentioned]
    paths = plain.get("paths")
    if isinstance(paths, dict):
        unread += [name for name in (f"paths.{each}" for each in paths if each not in _PLACES) if name not in mentioned]
    if unread:
        raise ValueError(f"{unread[0]} is no setting, and nothing refers to it{_suggestion(unread[0], plain)}")
    for name in parts:
        chosen = [each for each in _overrides() if re.match(rf"\+*{name}[.=@/]", each)]
        if chosen and name not in mentioned:
            warnings.warn(f"{chosen[0]} has no effect: the model does not refer to {name}", stacklevel=2)
    _check_own_files()


def _check_own_files() -> None:
    """Refuse files of ``--config-dir`` that have the name of one of lipnet's, which Hydra finds first."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    for folder in (Path(source.path) for source in sources if source.schema == "file"):
        for path in sorted(folder.rglob("*.yaml")):
            if (_PACKAGED / path.relative_to(folder)).is_file():
                name = path.relative_to(folder).as_posix()
                raise ValueError(f"{path} has no effect, because lipnet has a {name}, too: rename it")


def check_certify_settings(settings: Mapping[str, Any]) -> None:
    """Refuse unknown settings of a training's certification, before the training.

    Args:
        settings: the group ``certify`` of a training.

    Raises:
        ValueError: for a name that is no setting of a certification, or that the training sets itself.
    """
    others = (*_SET_BY_TRAINING, *_INSTEAD)
    accepted = [name for name in signature(certify_checkpoint).parameters if name not in others]
    for name in settings:
        if name in _INSTEAD:
            raise ValueError(f"certify.{name} would be ignored: {_INSTEAD[name]}")
        if name not in accepted:
            raise ValueError(f"certify.{name} is no setting of a certification; there are {', '.join(accepted)}")


def _mentioned(start: Mapping[str, Any], plain: Mapping[Any, Any]) -> set[str]:
    """Return the settings to which some settings, Hydra's own, and the settings that these mention may refer.

    The names are those of whole settings, such as ``paths``, and of the entries in them, such as ``paths.data_dir``.
    """
    hydra = OmegaConf.to_container(HydraConfig.instance().cfg, resolve=False) if HydraConfig.initialized() else {}
    found: set[str] = set()
    waiting: list[Any] = [*start.values(), hydra]
    while waiting:
        names = {name for text in _texts(waiting.pop()) if "${" in text for name in _names(text)}
        waiting += [plain[name] for name in names - found if name in plain and name not in start]
        found |= names
    return found


def _names(text: str) -> Iterator[str]:
    """Yield the names in a text with interpolations; a relative one, such as ``${.log_dir}``, may belong anywhere."""
    for path in re.findall(r"[\w.]+", text):
        keys = [key for key in path.split(".") if key]
        if path.startswith("."):
            yield from (*keys, *(f"paths.{key}" for key in keys))
        else:
            yield from (".".join(keys[:depth]) for depth in (1, 2))


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _suggestion(name: str, plain: Mapping[Any, Any]) -> str:
    """Return similar names of settings, and settings of groups with the same name, as the end of a sentence."""
    known = [str(key) for key in plain if key != name]
    groups = [(key, value) for key, value in plain.items() if isinstance(value, Mapping)]
    inner = [f"{key}.{name}" for key, value in groups if name in value]
    similar = [*inner, *get_close_matches(name, known, n=2, cutoff=0.75)]
    return f"; there is {' and '.join(similar)}" if similar else ""


def _overrides() -> list[str]:
    """Return the settings of the command line."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
