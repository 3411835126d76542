"""A copy of a model in which exponentials and operands are constants."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from lipnet.functional import with_channels
from lipnet.layers.engines import Engine
from lipnet.layers.operands import OperandLayer, Operands
from lipnet.layers.orthogonal_mixing import OrthogonalMixing
from lipnet.layers.soc import SOC


def frozen_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Copy a model, with the exponentials and operands that its layers compute from their weights as constants.

    Args:
        model: in evaluation mode.
        example: a batch; the copy has constants for the map sizes that the layers receive with it.

    Returns:
        The copy, which computes the same function with the same engines for inputs of the example's shape.

    Raises:
        TypeError: if the model does not return one tensor.
    """
    copy = deepcopy(model).requires_grad_(False)
    for original, layer in zip(model.modules(), copy.modules(), strict=True):
        if isinstance(original, SOC):
            # Set on the instance, so that the class's code around the exponential remains.
            vars(layer)["exponential"] = _FrozenExponential(original, layer)
        elif isinstance(original, OperandLayer):
            vars(layer)["operands_in_use"] = _FrozenOperands(original, layer)
    with torch.no_grad():
        result = copy(example)
    if not isinstance(result, Tensor):
        raise TypeError(f"model must return one tensor, got one that returns {type(result).__name__}")
    for layer in copy.modules():
        if isinstance(layer, OrthogonalMixing):
            # The call above has filled the cache from the exported weights.
            layer._cache.freeze()
    return copy


class _FrozenExponential:
    """Replacement for a layer's ``exponential``: the first call for each map size stores the constants.

    Args:
        original: the layer; its cached constants are used if it has been evaluated.
        copy: the same layer in the copy, which stores the constants.
    """

    def __init__(self, original: SOC, copy: nn.Module) -> None:
        self.original, self.copy = original, copy
        # Engine and name of the constant, by map size and sign.
        self.frozen: dict[tuple[tuple[int, int], int], tuple[Engine, str]] = {}

    def __call__(self, maps: Tensor, channels: int, sign: int = 1) -> Tensor:
        layer, size = self.original, (maps.shape[-2], maps.shape[-1])
        if (size, sign) not in self.frozen:
            engine = layer.engine_for(len(maps), size, explicit=False)
            constant = engine.constant(layer.prepared(), size, sign)
            constant = constant.resolve_conj().clone(memory_format=torch.contiguous_format)
            name = f"{'filter' if engine.name == 'series' else engine.name}_{len(self.frozen)}"
            self.copy.register_parameter(name, nn.Parameter(constant, requires_grad=False))
            self.frozen[size, sign] = engine, name
        engine, name = self.frozen[size, sign]
        maps = with_channels(maps, layer.active_groups * layer.weight.shape[1])
        return with_channels(
            engine.apply_constant(maps, getattr(self.copy, name), layer.prepared(), channels), channels
        )


class _FrozenOperands:
    """Replacement for a layer's ``operands_in_use``: the first call for each map size stores the operands.

    Args:
        original: the layer; its cached operands are used if it has been evaluated.
        copy: the same layer in the copy, which stores the operands.
    """

    def __init__(self, original: OperandLayer, copy: nn.Module) -> None:
        self.original, self.copy = original, copy
        # Names of the operands, by map size.
        self.frozen: dict[tuple[int, int] | None, list[str]] = {}

    def __call__(self, size: tuple[int, int]) -> Operands:
        key = size if self.original.by_size else None
        if key not in self.frozen:
            with torch.no_grad():
                operands = self.original.operands_in_use(size)
            names = [f"operand_{len(self.frozen)}_{index}" for index in range(len(operands))]
            for name, operand in zip(names, operands, strict=True):
                constant = operand.resolve_conj().clone(memory_format=torch.contiguous_format)
                self.copy.register_parameter(name, nn.Parameter(constant, requires_grad=False))
            self.frozen[key] = names
        return tuple(getattr(self.copy, name) for name in self.frozen[key])
