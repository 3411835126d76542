"""A copy of a model in which every exponential is a constant that is applied."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from lipnet.functional import apply_dense, apply_spectral, same_convolution
from lipnet.layers.skew_orthogonal import SkewOrthogonal, with_channels


def frozen_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Copy a model, and freeze what its skew-orthogonal layers compute from their weights.

    Args:
        model: in evaluation mode.
        example: a batch; the maps that layers receive with it are those that the copy is made for.

    Returns:
        The copy, computing the same function by the same engines for inputs of the example's shape.

    Raises:
        TypeError: if the model does not return one tensor.
    """
    copy = deepcopy(model).requires_grad_(False)
    for original, layer in zip(model.modules(), copy.modules(), strict=True):
        if isinstance(original, SkewOrthogonal):
            # On the instance, so that whatever the layer's class does around its exponential stays as it is.
            vars(layer)["exponential"] = _FrozenExponential(original, layer)
    with torch.no_grad():
        result = copy(example)
    if not isinstance(result, Tensor):
        raise TypeError(f"a model that returns one tensor is needed, got one that returns {type(result).__name__}")
    return copy


class _FrozenExponential:
    """Stands in for a layer's ``exponential``: what it applies is kept from the first call for each size of maps.

    Args:
        original: the layer, which has computed its constants already if it has been evaluated.
        copy: the layer of the copy, which holds them.
    """

    def __init__(self, original: SkewOrthogonal, copy: nn.Module) -> None:
        self.original, self.copy = original, copy
        # By the size of the maps and the sign: engine, name of the constant, coefficients of the series.
        self.kept: dict[tuple[tuple[int, int], int], tuple[str, str, tuple[float, ...]]] = {}

    def __call__(self, maps: Tensor, channels: int, sign: int = 1) -> Tensor:
        size = (maps.shape[-2], maps.shape[-1])
        if (size, sign) not in self.kept:
            self.kept[size, sign] = self._keep(len(maps), size, sign)
        engine, name, coefficients = self.kept[size, sign]
        constant: Tensor = getattr(self.copy, name)
        if engine == "series":
            return with_channels(self._polynomial(maps, constant, coefficients, channels), channels)
        apply = apply_spectral if engine == "spectral" else apply_dense
        return with_channels(apply(maps, constant), channels)

    def _keep(self, batch: int, size: tuple[int, int], sign: int) -> tuple[str, str, tuple[float, ...]]:
        engine = self.original.choice(batch, size).engine
        with torch.no_grad():
            operand, series = self.original._evaluation_operand(engine, size, sign)
        name = f"{'filter' if engine == 'series' else engine}_{len(self.kept)}"
        constant = operand.resolve_conj().clone(memory_format=torch.contiguous_format)
        self.copy.register_parameter(name, nn.Parameter(constant, requires_grad=False))
        return engine, name, () if series is None else series.coefficients

    def _polynomial(self, maps: Tensor, weight: Tensor, coefficients: Sequence[float], channels: int) -> Tensor:
        """Horner's rule for a monic polynomial, as convolutions and additions that any runtime has."""
        groups, padding_mode = self.original.active_groups, self.original.padding_mode
        lowest, *lower, _ = coefficients
        state = maps
        for coefficient in reversed(lower):
            state = same_convolution(state, weight, groups, padding_mode).add(maps, alpha=coefficient)
        # The last convolution needs to compute only the channels that are wanted.
        last = weight[:channels] if groups == 1 else weight
        return same_convolution(state, last, groups, padding_mode).add(maps[:, : len(last)], alpha=lowest)
