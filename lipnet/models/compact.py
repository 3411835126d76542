"""Weights in a ninth to a third of the space: skew filters without their redundant entries, in 16 bits.

The weight M of a skew-orthogonal convolution only counts through M - T(M), and groups that are not computed do not
count at all. So more than half of its entries can be zero. `compact_weights` makes such weights; `pack` and `unpack`
store tensors with many zeros, or with values of 16 bits, without a loss.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.skew import half_filter
from lipnet.layers import SOC

PACKED = "packed"
"""Key of the packed tensors in the description of a checkpoint."""

# Names of what is stored in place of a packed tensor.
_VALUES, _RUNS = "/values", "/runs"
_SHORT = (torch.float16, torch.bfloat16)
# Smallest share of values that are not zero. It limits the memory that a small file can make a reader allocate.
_SHARE = 1 / 16


def compact_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of almost the same function, with those of skew-orthogonal convolutions halved and rounded.

    In each `SOC` of the model, the entries that do not count become zero, and the others the nearest values of float16,
    or of bfloat16 if that is closer. The rounding changes the function a little: certify the result.

    Args:
        model: the network.
        state: its state dict.
    """
    result = dict(state)
    for path, module in model.named_modules(remove_duplicate=False):
        name = f"{path}.weight".removeprefix(".")
        if isinstance(module, SOC) and name in state:
            result[name] = _compact_filter(state[name], module.groups, module.active_groups)
    return result


def is_compact(model: nn.Module) -> bool:
    """Tell whether `compact_weights` would leave the weights as they are."""
    state = model.state_dict()
    return all(torch.equal(value, state[name]) for name, value in compact_weights(model, state).items())


def _compact_filter(weight: Tensor, groups: int, active_groups: int) -> Tensor:
    half = half_filter(weight, groups)
    half[active_groups * weight.shape[1] :] = 0
    rounded = [half.to(dtype).to(half.dtype) for dtype in _SHORT]
    return min(rounded, key=lambda each: float((each - half).abs().max()))


def pack(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Replace tensors by their values other than zero, in 16 bits, where this loses nothing and takes less space.

    Returns:
        The tensors to store, and the description of the packed ones, JSON values, which `unpack` needs.
    """
    tensors, description = {}, {}
    for name, tensor in state.items():
        packed = _packed(tensor)
        if packed is None or name + _VALUES in state or name + _RUNS in state:
            tensors[name] = tensor
        else:
            tensors[name + _VALUES], tensors[name + _RUNS] = packed
            description[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    return tensors, description


def _packed(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    if tensor.dtype != torch.float32 or not tensor.numel():
        return None
    # Compared as integers: -0.0 is a value like others.
    bits = tensor.detach().cpu().contiguous().flatten().view(torch.int32)
    used = bits != 0
    values = bits[used]
    ends = (used[1:] != used[:-1]).nonzero().flatten() + 1
    borders = [torch.zeros(2 if used[0] else 1, dtype=torch.int64), ends, torch.tensor([len(used)])]
    runs = torch.cat(borders).diff().int()
    if len(values) < _SHARE * len(used) or 2 * len(values) + 4 * len(runs) >= 4 * len(used):
        return None
    for dtype in _SHORT:
        short = values.view(torch.float32).to(dtype)
        if torch.equal(short.float().view(torch.int32), values):
            return short, runs
    return None


def unpack(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of `pack`, in the order of their names.

    Raises:
        ValueError: the tensors and the description do not fit.
    """
    state = dict(tensors)
    try:
        for name, facts in description.items():
            state[name] = _unpacked(state.pop(name + _VALUES), state.pop(name + _RUNS), **facts)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its packed tensors are not complete ({type(error).__name__}: {error})") from error
    return dict(sorted(state.items()))


def _unpacked(values: Tensor, runs: Tensor, dtype: str, shape: list[int]) -> Tensor:
    """Fill a tensor with runs of zeros and of values in turn, the first one of zeros."""
    if dtype != "float32" or values.dtype not in _SHORT or runs.dtype != torch.int32:
        raise ValueError(f"packed tensors must be float32 from 16 bits, got {dtype} from {values.dtype}")
    if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"the shape of a packed tensor must be positive integers, got {shape}")
    count = prod(shape)
    if values.dim() != 1 or runs.dim() != 1:
        raise ValueError(f"values and runs must be one-dimensional, got {tuple(values.shape)} and {tuple(runs.shape)}")
    if len(values) < _SHARE * count:
        raise ValueError(f"a packed tensor of shape {shape} must have a value for {1 / _SHARE:.0f} places, got fewer")
    lengths = runs.long()
    if bool(((lengths < 0) | (lengths > count)).any()) or int(lengths.sum()) != count:
        raise ValueError(f"the runs of a packed tensor of shape {shape} must fill it")
    used = torch.repeat_interleave(torch.arange(len(lengths)) % 2 == 1, lengths)
    if int(used.sum()) != len(values):
        raise ValueError(f"the runs of a packed tensor must hold its {len(values)} values")
    result = torch.zeros(count)
    result[used] = values.float()
    return result.view(shape)
