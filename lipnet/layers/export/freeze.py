"""A copy of a model in which every exponential is applied as a constant."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from lipnet.layers.engines import Engine
from lipnet.layers.operands import OperandLayer
from lipnet.layers.orthogonal_mixing import OrthogonalMixing
from lipnet.layers.soc import SOC, with_channels


def frozen_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Copy a model, and freeze the values that its skew-orthogonal layers compute from their weights.

    Args:
        model: in evaluation mode.
        example: a batch; the copy is made for the map sizes that layers receive with it.

    Returns:
        The copy, computing the same function by the same engines for inputs of the example's shape.

    Raises:
        TypeError: if the model does not return one tensor.
    """
    copy = deepcopy(model).requires_grad_(False)
    for original, layer in zip(model.modules(), copy.modules(), strict=True):
        if isinstance(original, SOC):
            # On the instance, so that everything around the exponential stays as the class has it.
            vars(layer)["exponential"] = _FrozenExponential(original, layer)
    with torch.no_grad():
        result = copy(example)
    if not isinstance(result, Tensor):
        raise TypeError(f"a model that returns one tensor is needed, got one that returns {type(result).__name__}")
    for layer in copy.modules():
        if isinstance(layer, (OperandLayer, OrthogonalMixing)):
            # Filled just now, from the weights that are exported.
            layer._cache.freeze()
    return copy


class _FrozenExponential:
    """A layer's ``exponential`` with constants that are stored on the first call for each map size.

    Args:
        original: the layer, whose cached constants are taken if it has been evaluated.
        copy: the layer of the copy, which stores the constants.
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
