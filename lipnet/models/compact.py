"""Weights in a fifth of the space: skew filters without their redundant entries, in 16 bits.

The weight M of a skew-orthogonal convolution only counts through M - T(M), and groups that are not computed do not
count at all. So more than half of its entries can be zero. `compact_weights` makes such weights; `pack` and `unpack`
store tensors with many zeros and values of 16 bits without a loss.
"""

from collections.abc import Mapping
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.skew import half_filter
from lipnet.layers import SOC
from lipnet.layers.identity import of_lipnet_or_torch

PACKED = "packed"
"""Key of the packed tensors in the description of a checkpoint."""

# Names of what is stored in place of a packed tensor.
_VALUES, _RUNS = "/values", "/runs"
_SHORT = (torch.float16, torch.bfloat16)
# Dtypes of tensors that are packed, and integers of the same length.
_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in _BITS}
# Smallest share of values that are not zero. It limits the memory that a small file can make a reader allocate.
_SHARE = 1 / 16


def compact_weights(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of almost the same function, with those of skew-orthogonal convolutions halved and rounded.

    In each `SOC` of the model, the entries that do not count become zero, and the others the nearest values of float16,
    or of bfloat16 if that is closer. The rounding changes the function a little: certify the result. A weight that
    other modules use in another way stays as it is, and so does one whose entries nearly overflow.

    Args:
        model: the network.
        state: its state dict.
    """
    result = dict(state)
    for weight, uses in _uses(model).items():
        names, modules = zip(*uses, strict=True)
        kinds = {_kind(module, weight) for module in modules}
        if len(kinds) == 1 and (kind := kinds.pop()) is not None:
            compact = _compact_filter(state[names[0]], *kind)
            result |= dict.fromkeys(names, compact)
    return result


def is_compact(model: nn.Module) -> bool:
    """Tell whether `compact_weights` would leave the weights as they are."""
    state = model.state_dict()
    return all(torch.equal(value, state[name]) for name, value in compact_weights(model, state).items())


def _uses(model: nn.Module) -> dict[nn.Parameter, list[tuple[str, nn.Module]]]:
    """Return the names of each parameter, with the modules that have it."""
    uses: dict[nn.Parameter, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(path, recurse=False, remove_duplicate=False):
            uses.setdefault(parameter, []).append((name, module))
    return uses


def _kind(module: nn.Module, weight: nn.Parameter) -> tuple[int, int] | None:
    """Return the groups, and the active groups, of a SOC with this weight; None for another use of it."""
    if not (isinstance(module, SOC) and of_lipnet_or_torch(module) and module._parameters.get("weight") is weight):
        return None
    return module.groups, module.active_groups


def _compact_filter(weight: Tensor, groups: int, active_groups: int) -> Tensor:
    half = half_filter(weight, groups)
    half[active_groups * weight.shape[1] :] = 0
    if not bool(half.isfinite().all()):
        return weight
    return min((half.to(dtype).to(half.dtype) for dtype in _SHORT), key=lambda each: _largest_error(each, half, groups))


def _largest_error(rounded: Tensor, exact: Tensor, groups: int) -> float:
    """Return the largest error relative to the largest entry of its group: groups are scaled one by one."""
    errors = (rounded - exact).abs().view(groups, -1).amax(1)
    sizes = exact.abs().view(groups, -1).amax(1).clamp_min(torch.finfo(exact.dtype).tiny)
    return float((errors / sizes).max().nan_to_num(nan=inf))


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
    if tensor.dtype not in _BITS or not tensor.numel():
        return None
    # Compared as integers: -0.0 is a value like others.
    integers = _BITS[tensor.dtype]
    bits = tensor.detach().cpu().contiguous().flatten().view(integers)
    used = bits != 0
    values = bits[used]
    changes = (used[1:] != used[:-1]).nonzero().flatten().tolist()
    borders = [*([0, 0] if used[0] else [0]), *(place + 1 for place in changes), len(used)]
    runs = torch.tensor(borders, device="cpu").diff().int()
    if len(values) < _SHARE * len(used) or 2 * len(values) + 4 * len(runs) >= tensor.element_size() * len(used):
        return None
    for dtype in _SHORT:
        short = values.view(tensor.dtype).to(dtype)
        if torch.equal(short.to(tensor.dtype).view(integers), values):
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
            if name in state:
                raise ValueError(f"it holds {name} twice, packed and as it is")
            state[name] = _unpacked(state.pop(name + _VALUES), state.pop(name + _RUNS), **facts)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its packed tensors are not complete ({type(error).__name__}: {error})") from error
    return dict(sorted(state.items()))


def _unpacked(values: Tensor, runs: Tensor, dtype: str, shape: list[int]) -> Tensor:
    """Fill a tensor with runs of zeros and of values in turn, the first one of zeros."""
    if dtype not in _NAMES or values.dtype not in _SHORT or runs.dtype != torch.int32:
        raise ValueError(f"packed tensors must be of {', '.join(_NAMES)}, from 16 bits, got {dtype} of {values.dtype}")
    if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"the shape of a packed tensor must be positive integers, got {shape}")
    if values.dim() != 1 or runs.dim() != 1:
        raise ValueError(f"values and runs must be one-dimensional, got {tuple(values.shape)} and {tuple(runs.shape)}")
    count = prod(shape)
    if len(values) < _SHARE * count:
        raise ValueError(f"a packed tensor of shape {shape} must have a value for {1 / _SHARE:.0f} places, got fewer")
    lengths = runs.tolist()
    if any(length < 0 for length in lengths) or sum(lengths) != count or sum(lengths[1::2]) != len(values):
        raise ValueError(f"the runs of a packed tensor must fill its shape {shape} with {len(values)} values")
    # Piece by piece: a mask of the whole tensor would take more memory than the tensor.
    result = torch.zeros(count, dtype=_NAMES[dtype], device="cpu")
    place = taken = 0
    for number, length in enumerate(lengths):
        if number % 2:
            result[place : place + length] = values[taken : taken + length]
            taken += length
        place += length
    return result.view(shape)
