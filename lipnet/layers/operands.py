"""Base class of layers that multiply their input with tensors computed from the parameters."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from lipnet.functional import space_to_depth
from lipnet.functional.autocast import autocast_dtype, without_autocast
from lipnet.functional.convolution import check_padding_mode
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import check_input, check_weight, for_channels, pair
from lipnet.layers.base import LipschitzModule
from lipnet.layers.cache import WeightCache, version_of
from lipnet.layers.initial import reset_bias

Operands = tuple[Tensor, ...]


@dataclass
class _Prepared:
    """Operands of evaluation and their bounds, as cached for one state of the weights and settings.

    Keys are sizes of feature maps, or None if the operands do not depend on the size.
    """

    operands: dict[Any, Operands] = field(default_factory=dict)
    bounds: dict[Any, float] = field(default_factory=dict)
    _versions: list[tuple[Tensor, int | None]] = field(default_factory=list)

    def store(self, key: Any, operands: Operands) -> None:
        """Cache operands, and remember their version counters for `written`."""
        self._versions.extend((each, version_of(each)) for each in operands)
        self.operands[key] = operands

    def written(self) -> bool:
        """Return whether an operand was changed in place, so that the bounds may not hold any more."""
        return any(version_of(tensor) != version for tensor, version in list(self._versions))


class OperandLayer(LipschitzModule):
    """A layer that computes operands from its weights, and multiplies its input with them.

    A subclass implements `weights`, the list of tensors that the operands depend on, and four functions of tensors:

    - ``compute_operands(*weights, size)``: the operands, differentiable;
    - ``apply_operands(maps, operands)``: the layer without its bias;
    - ``bound_operands(operands)``: an upper bound on the Lipschitz constant of ``apply_operands``, rounded up;
    - ``round_operands(operands, signal, size)``: a bound on the rounding of ``apply_operands``, for certificates.

    Training computes the operands in every forward pass, in the weights' dtype. Evaluation computes them once, in
    float64, rounds them to the weights' dtype, and caches them until the weights change. The bound holds for the
    rounded operands.

    Args:
        in_channels, out_channels: of the input and the output.
        kernel_size, stride: as in ``nn.Conv2d``; a stride is space-to-depth before the operands, unless the subclass
            sets ``native_stride``.
        bias: learn a constant for each output channel.
        padding_mode: ``"zeros"`` or ``"circular"``.
        device, dtype: of the parameters.

    Raises:
        ValueError: in the forward pass, for an input of another shape or dtype, and as `check`.
    """

    # Spatial dimensions of the inputs: 2 for a convolution, 0 for a linear layer.
    dimensions: ClassVar[int] = 2
    # Whether apply_operands strides by itself, without space-to-depth before it.
    native_stride: ClassVar[bool] = False
    # Whether the operands depend on the size of the feature maps.
    by_size: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        *,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair(kernel_size, self.dimensions, "kernel_size")
        self.stride = pair(stride, self.dimensions, "stride")
        self.padding_mode = padding_mode
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        # Set by `lipnet.layers.explicit.explicit_products`: evaluate by plain sums of products.
        self.explicit = False
        self._cache: WeightCache[_Prepared] = WeightCache()

    @abstractmethod
    def weights(self) -> list[Tensor]:
        """Return the tensors, parameters or buffers, that the operands are computed from."""

    @abstractmethod
    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        """Compute the operands, differentiable, in the dtype of the weights.

        ``size`` is the height and width of the maps that `apply_operands` receives.
        """

    @abstractmethod
    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        """Compute the layer without its bias on maps (B, C, H, W), after space-to-depth unless `native_stride`.

        The result must be a new tensor: `forward` may add the bias in place.
        """

    @abstractmethod
    def bound_operands(self, operands: Operands) -> float:
        """Bound the Lipschitz constant of `apply_operands` from above, for finite operands."""

    @abstractmethod
    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        """Bound the rounding of `apply_operands` in float64."""

    def forward(self, x: Tensor) -> Tensor:
        self.check()
        # `by_size` operands may wrap around the maps several times; circular padding may wrap once.
        wraps = self.padding_mode == "circular" and not self.by_size
        reach = (self.kernel_size[0] // 2, self.kernel_size[1] // 2) if wraps else (0, 0)
        if self.native_stride:
            # Such a layer pads before its stride.
            reach = (-(-reach[0] // self.stride[0]), -(-reach[1] // self.stride[1]))
        reference = self.weights()[0]
        check_input(type(self).__name__, x, reference, self.in_channels, self.dimensions, self.stride, reach)
        batched = x.dim() == self.dimensions + 2
        maps = x if batched else x.unsqueeze(0)
        if self.dimensions == 0:
            maps = maps[:, :, None, None]
        if not self.native_stride:
            maps = space_to_depth(maps, self.stride)
        operands = self.operands_in_use((maps.shape[-2], maps.shape[-1]))
        # In training, autocast reduces the products. In evaluation, the bound holds for the operands as they are.
        reduced = autocast_dtype(maps.device) if self.training else None
        if reduced is not None:
            operands = tuple(each if each.is_complex() else each.to(reduced) for each in operands)
        with without_autocast(maps.device):
            maps = self.apply_operands(maps.to(reference.dtype if reduced is None else reduced), operands)
        if self.bias is not None:
            bias = for_channels(self.bias, maps)
            maps = maps + bias if torch.is_grad_enabled() else maps.add_(bias)
        if self.dimensions == 0:
            return maps.flatten(1)
        return maps if batched else maps.squeeze(0)

    def operands(self, size: tuple[int, int]) -> Operands:
        """Return copies of the operands for maps of this size, in training or evaluation as the layer is set."""
        return tuple(each.clone() for each in self.operands_in_use(size))

    def operands_in_use(self, size: tuple[int, int]) -> Operands:
        """Return the operands, which evaluation caches together with their bounds: never write into them."""
        weights = self.weights()
        differentiated = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        # An exported program has no cache; `lipnet.layers.export` gives it the prepared operands.
        if not self.training and not torch.compiler.is_exporting() and (self.explicit or not differentiated):
            return self._prepared_operands(size)
        with without_autocast(weights[0].device):
            return self.compute_operands(*weights, size=size) if self.training else self._evaluated(weights, size)

    # As for WeightCache.get: a compiled evaluation takes the operands from the cache.
    @_disable_dynamo
    def _prepared_operands(self, size: tuple[int, int]) -> Operands:
        """Return the operands of evaluation for maps of this size, computed once for the present weights."""
        weights, prepared = self.weights(), self._prepared()
        key = size if self.by_size else None
        if key in prepared.operands:
            return prepared.operands[key]
        with torch.inference_mode(False), torch.no_grad(), without_autocast(weights[0].device):
            operands = self._evaluated([weight.detach().clone() for weight in weights], size)
        # Another thread may have changed the weights meanwhile.
        if self._prepared() is prepared:
            prepared.store(key, operands)
        return operands

    def _prepared(self, *, exact: bool = False) -> _Prepared:
        """Return the cache entry of the present weights and settings.

        It is empty after a change of either, and after a caller has written into an operand.
        """
        return self._cache.get(self.weights(), _Prepared, settings=self._settings(), exact=exact)

    def _settings(self) -> dict[str, Any]:
        """Return the plain attributes, on which operands and bounds may depend.

        ``explicit`` is left out: operands and bounds are the same with it and without.
        """
        plain = (int, float, str, tuple, list, type(None))
        # Copies of lists, whose entries may change in place.
        return {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in vars(self).items()
            if isinstance(value, plain) and key != "explicit"
        }

    def _evaluated(self, weights: Sequence[Tensor], size: tuple[int, int]) -> Operands:
        """Compute the operands of evaluation: in float64, rounded to the dtype of the weights."""
        operands = self.compute_operands(*(weight.double() for weight in weights), size=size)
        dtype = weights[0].dtype
        return tuple(each.to(dtype.to_complex() if each.is_complex() else dtype) for each in operands)

    def check(self) -> None:
        """Raise ValueError for attributes that contradict each other or the weights; `forward` calls it, too.

        A subclass extends it by the shapes of its weights.
        """
        check_padding_mode(self.padding_mode)
        check_weight("bias", self.bias, (self.out_channels,))

    def lipschitz_bound(self) -> float:
        """Return an upper bound on the Lipschitz constant, from the operands that `forward` multiplies with now.

        It is infinite if an operand is not finite.

        Raises:
            ValueError: as `check`.
        """
        self.check()
        with torch.no_grad():
            # Operands that depend on the size are contractions for every size, so one size stands for all.
            size = (1, 1) if self.by_size else self.kernel_size
            if self.training:
                return self._bound(self.operands_in_use(size))
            prepared = self._prepared(exact=True)
            key = size if self.by_size else None
            if key in prepared.bounds:
                return prepared.bounds[key]
            bound = self._bound(self.operands_in_use(size))
            if self._prepared(exact=True) is prepared:
                prepared.bounds[key] = bound
            return bound

    def _bound(self, operands: Operands) -> float:
        if not all(bool(each.isfinite().all()) for each in operands):
            return inf
        bound = self.bound_operands(operands)
        return bound if isfinite(bound) else inf

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding error of an evaluation within `explicit_products`."""
        height, width = (1, 1, *signal.shape[1:])[-2:]
        size = (height, width) if self.native_stride else (height // self.stride[0], width // self.stride[1])
        with torch.no_grad():
            step = self.round_operands(self.operands_in_use(size), signal, size)
        pixels = prod(shape[1:]) if self.dimensions else 1
        return step.then(addition(signal.after(step, shape), self.bias, pixels))

    def train(self, mode: bool = True) -> Self:
        if mode and not self.training:
            # Training needs the memory.
            self._cache.clear()
        return super().train(mode)

    def reset_bias(self) -> None:
        """Draw biases uniformly from +-1 / sqrt(out_channels)."""
        reset_bias(self.bias)
