"""Compare weights with the model that a file describes, before the model is allocated."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from lipnet.models.build import build_model, find_class, walk

# A model may have this many modules, parameters and elements in addition to those that the weights in its file explain,
# such as constants and modules without weights.
_SPARE_PARTS, _SPARE_ELEMENTS = 1_000, 2**20
# A number in a configuration may exceed the bytes of the weights by so much, such as the side of an image.
_SPARE_COUNT = 2**16
# Classes of torch that copy a module as often as they are told.
_COPYING = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
_UNFIT = "the weights do not fit the model that the file describes"


def check_fit(config: Mapping[str, Any], state: Mapping[str, Tensor], trust: Sequence[str]) -> torch.dtype:
    """Check that weights fit the model of a configuration, without allocating it, and return their dtype."""
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            # It states more entries than the file holds.
            raise ValueError(f"{_UNFIT}: {name} must be an ordinary tensor, got {value.layout} on {value.device}")
    storages = {storage.data_ptr(): storage.nbytes() for storage in (v.untyped_storage() for v in state.values())}
    held = sum(storages.values())
    if not trust:
        _check_counts(config, held)
        _check_copies(config)
    with torch.device("meta"), _limited_parts(2 * len(state) + _SPARE_PARTS):
        model = build_model(config, trust)
    own = model.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or surplus:
        raise ValueError(f"{_UNFIT}: missing: {_few(missing)}; unexpected: {_few(surplus)}")
    for name, value in state.items():
        if value.shape != own[name].shape or _kind(value) != _kind(own[name]):
            raise ValueError(
                f"{_UNFIT}: {name} must be {own[name].dtype} of shape {tuple(own[name].shape)}, got {value.dtype} of "
                f"shape {tuple(value.shape)}"
            )
    needed = sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    if needed > held + _SPARE_ELEMENTS:
        raise ValueError(f"{_UNFIT}: it has {needed} elements, and the file holds {held} bytes of weights")
    return floating_dtype(state)


def _check_counts(config: Mapping[str, Any], held: int) -> None:
    """Raise ValueError for a whole number that weights of this size do not explain.

    A module may make a list or a loop of that length, which `_limited_parts` does not count. Your own packages' numbers
    may mean anything, such as a seed.
    """
    for value in walk(config):
        if isinstance(value, int) and abs(value) > held + _SPARE_COUNT:
            raise ValueError(f"{_UNFIT}: it states the number {value}, and the file holds {held} bytes of weights")


def _check_copies(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a class that copies a module a stated number of times, which `_limited_parts` cannot count.

    Nested in each other, a few of them make any number of modules.
    """
    for node in walk(config):
        if isinstance(node, Mapping) and issubclass(find_class(node.get("_target_", "torch.nn.Module")), _COPYING):
            raise ValueError(
                f"{_UNFIT}: {node['_target_']} copies its layers, and may need any amount of memory; if you wrote the "
                "file, trust=['torch.nn'] builds it"
            )


def floating_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the floating-point dtype of weights, float32 if they have none; raise ValueError if they have several."""
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(dtypes) > 1:
        raise ValueError(f"weights must share one floating-point dtype, got {sorted(map(str, dtypes))}")
    return dtypes.pop() if dtypes else torch.float32


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


@contextmanager
def _limited_parts(limit: int) -> Iterator[None]:
    """Stop a construction, in this thread, that registers more than ``limit`` modules and parameters."""
    token = _parts_left.set([limit])
    try:
        yield
    finally:
        _parts_left.reset(token)


def _count_part(module: nn.Module, name: str, part: Any) -> None:
    left = _parts_left.get()
    if left is not None:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("the model that the file describes has more modules and parameters than its weights need")


# Registered for good: removing a hook while another thread builds a module would make that thread fail.
_parts_left: ContextVar[list[int] | None] = ContextVar("_parts_left", default=None)
register_module_module_registration_hook(_count_part)
register_module_parameter_registration_hook(_count_part)


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "none"
