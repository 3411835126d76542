"""Checkpoints that describe themselves: a trained model can be rebuilt from the file alone."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lipnet import __version__
from lipnet.files import atomic_write, resolve_path
from lipnet.models.archive import CheckpointError, read_archive, write_archive
from lipnet.models.build import build_model, walk
from lipnet.models.compact import PACKED, unpack
from lipnet.models.described import check_described
from lipnet.models.fit import check_fit
from lipnet.tensor_file import SUFFIX, parse_tensor_file, tensor_file_bytes

DESCRIPTION = "lipnet"
_FORMAT = 1
_PREFIX = "model."


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file, checked and rebuilt.

    Attributes:
        model: the network with its trained weights and their dtype, in evaluation mode, on the CPU.
        model_config: the plain configuration that it was built from.
        dataset: the training data: ``name``, and the settings of the split.
        sha256: SHA-256 of the file.
    """

    model: nn.Module
    model_config: dict[str, Any]
    dataset: dict[str, Any]
    sha256: str


def describe(model_config: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description that a checkpoint holds under the key ``"lipnet"``.

    Raises:
        TypeError: a value is not a mapping, sequence, string, number or None, and could not be read back safely.
        ValueError: the values are nested too deeply.
    """
    for config in (model_config, dataset):
        walk(config)
    return {"format": _FORMAT, "version": __version__, "model": _plain(model_config), "dataset": _plain(dataset)}


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    model_config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    trust: Sequence[str] = (),
) -> None:
    """Write a model so that `load_checkpoint` reads it; for training without Lightning.

    Args:
        path: the file; written whole or not at all, with its SHA-256 inside. A name that ends in ``.safetensors``
            chooses that format.
        model: the network, built by ``build_model(model_config)``. The wrappers of ``torch.compile``, ``DataParallel``
            and ``DistributedDataParallel`` around it are removed.
        model_config: plain containers with Hydra's ``_target_``.
        dataset: at least ``{"name": NAME}``; ``lipnet-certify`` needs a key of `lipnet.data.DATAMODULES`.
        trust: packages besides lipnet and torch.nn that `load_checkpoint` will be allowed to build from.

    Raises:
        CheckpointError: `load_checkpoint` could not read the file, or would build another model, because a module, a
            setting or a buffer that is not saved was changed after ``build_model``; nothing is written.
        TypeError: a configuration holds values that are not plain.
    """
    path = resolve_path(path)
    state, description = checked_content(path, model, model_config, dataset, trust)
    if path.suffix == SUFFIX:
        with atomic_write(path) as file:
            file.write(tensor_file_bytes(state, description, DESCRIPTION))
    else:
        prefixed = {_PREFIX + name: value for name, value in state.items()}
        write_archive(path, {"state_dict": prefixed, DESCRIPTION: description})


def checked_content(
    path: str | Path,
    model: nn.Module,
    model_config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    trust: Sequence[str] = (),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the description to save; arguments and errors as `save_checkpoint`."""
    model = unwrapped(model)
    state = model.state_dict()
    description = describe(model_config, dataset)
    _check_content(path, {"state_dict": state, DESCRIPTION: description})
    with _one_error(f"{path} is not written, as it could not be read again"):
        check_fit(description["model"], state, trust)
        check_described(model, description["model"], trust)
    return state, description


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model within the wrappers of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    return model


def load_checkpoint(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint and rebuild its model, executing nothing from the file.

    Names and shapes of the weights are compared with the model before the model is allocated.

    Args:
        path: a file written by lipnet's training, by `save_checkpoint` or by `save_pretrained`.
        trust: packages besides lipnet and torch.nn whose modules may be built; see `build_model`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, damaged, not a checkpoint of lipnet, its weights do not fit its model, or
            its configuration names a target that is not allowed.
    """
    content, sha256 = read_checkpoint(path)
    description = content[DESCRIPTION]
    state = {name.removeprefix(_PREFIX): value for name, value in content["state_dict"].items()}
    written, failure = description.get("version"), f"{path} cannot be loaded by lipnet {__version__}"
    with _one_error(failure if written == __version__ else f"{failure}, lipnet {written} wrote it"):
        dtype = check_fit(description["model"], state, trust)
        model = build_model(description["model"], trust).to(dtype)
        model.load_state_dict(state)
    return Checkpoint(model.eval(), description["model"], description["dataset"], sha256)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the content of a checkpoint file, on the CPU, and its SHA-256; errors as in `load_checkpoint`."""
    path = resolve_path(path)
    if path.suffix == SUFFIX:
        state, description, sha256 = _read_tensor_file(path)
        prefixed = {_PREFIX + name: value for name, value in state.items()}
        content: Any = {"state_dict": prefixed, DESCRIPTION: description}
    else:
        content, sha256 = read_archive(path)
    _check_content(path, content)
    return content, sha256


def _read_tensor_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return the weights, the description, and the SHA-256 of the whole file; errors as in `load_checkpoint`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path.absolute()}")
    data = path.read_bytes()
    try:
        content = parse_tensor_file(data, DESCRIPTION)
        if not content.has_sha256:
            raise ValueError("not written by lipnet? It states no SHA-256")
        tensors = unpack(content.tensors, content.description.get(PACKED, {}))
    except ValueError as error:
        raise CheckpointError(f"{path} ({len(data)} bytes) cannot be read as a checkpoint: {error}") from error
    return tensors, content.description, hashlib.sha256(data).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"a checkpoint describes itself by plain containers and values, got {type(value).__name__} {value}")


def _check_content(path: str | Path, content: Any) -> None:
    description = content.get(DESCRIPTION) if isinstance(content, Mapping) else None
    if not isinstance(description, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        raise CheckpointError(f"{path} is not a checkpoint of lipnet: it does not describe its model")
    if description.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has format {description.get('format')}, this version of lipnet reads {_FORMAT}")
    missing = [key for key in ("model", "dataset") if not isinstance(description.get(key), Mapping)]
    if missing or "name" not in description["dataset"]:
        raise CheckpointError(f"{path} does not describe its {' and '.join(missing) or 'dataset'}")
    try:
        walk(description)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    for name, value in content["state_dict"].items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} holds weights whose names are not strings, got {name!r}")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path} holds weights that are not tensors, got {type(value).__name__} {name!r}")


@contextmanager
def _one_error(failure: str) -> Iterator[None]:
    """Turn the errors of a model that cannot be built or does not fit its weights into a `CheckpointError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{failure}: {str(error) or type(error).__name__}") from error
