"""The skew-orthogonal convolution (SOC), used like ``nn.Conv2d``."""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lipnet.functional import polynomial_gain, skew_filter, space_to_depth, with_channels
from lipnet.functional.autocast import autocast_dtype, without_autocast
from lipnet.functional.convolution import check_padding_mode
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import (
    check_convolution,
    check_groups,
    check_input,
    check_odd,
    check_weight,
    for_channels,
    pair,
)
from lipnet.layers.base import LipschitzModule, check_part
from lipnet.layers.cache import WeightCache, check_not_batched, is_frozen
from lipnet.layers.engines import (
    ENGINE_CLASSES,
    EXPLICIT_ENGINE_CLASSES,
    Choice,
    Engine,
    PreparedWeight,
    Situation,
    choose_engine,
    expected_norm,
    make_series,
    norm_bound,
    prepare_weight,
)
from lipnet.layers.initial import reset_bias
from lipnet.layers.reshaped_scaling import ReshapedScaling
from lipnet.layers.scaling import JacobianScaling

# Classes of the option `scaling`.
SCALINGS: dict[str, type[JacobianScaling | ReshapedScaling]] = {
    "jacobian": JacobianScaling,
    "reshaped": ReshapedScaling,
}
# Settings that `extra_repr` only shows if they differ.
_DEFAULTS = {
    "engine": "auto",
    "series": "chebyshev",
    "padding_mode": "zeros",
    "train_terms": None,
    "eval_terms": None,
    "train_tolerance": 0.05,
    "eval_tolerance": 1e-4,
    "recompute": False,
}


class SOC(LipschitzModule):
    r"""Skew-orthogonal convolution: :math:`y = \exp(J)\,x + b` with a skew-symmetric convolution J.

    J is the 'same' convolution with :math:`L = s\,(M - T(M)) / 2`. M is the parameter ``weight``, T(M) the filter of
    the adjoint, and the scale s > 0 brings ||J|| to 1.4. J^T = -J, so exp(J) is orthogonal. The definition in plain
    torch is `lipnet.functional.reference.soc`; symbols are in docs/notation.md.

    - Channels: a stride is space-to-depth. The input is padded with zeros to c = max(in_channels * stride^2,
      out_channels) channels (an isometry), and the first ``out_channels`` of the result are kept (a contraction).
    - Groups: M and exp(J) are block-diagonal, and each group is a SOC with its own scale. Groups whose input is only
      padding, or whose output is cut off, are not computed.
    - Engines: exp(J) is computed as a polynomial of J, as a matrix per frequency, or as one matrix. `choice` returns
      the engine and the reason.
    - Evaluation: everything that depends on the weights is computed from the weights alone, in float64, and cached
      until they change. No buffer is read or written, except within `lipnet.layers.estimated.estimated_scales`.
    - Training: s comes from one step of power iteration on stored vectors per change of the weight, cheap and
      differentiable. No guarantee uses it: `lipschitz_bound` holds in both modes.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value (k - 1) / 2, dilation 1 and the
            padding mode ``"zeros"`` or ``"circular"``: every other setting breaks the skew symmetry.
        engine, series, scaling, train_terms, eval_terms, train_tolerance, eval_tolerance, recompute, device, dtype:
            see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021; grouped form: Gorbunov et al., NeurIPS 2024
    (arXiv 2406.10019).

    Example:
        >>> layer = SOC(3, 8, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> layer.lipschitz_bound()
        1.0
        >>> layer.choice(batch=1, size=(16, 16)).engine
        'series'
    """

    # Spatial dimensions of the inputs: 2, or less in subclasses. The convolution itself always has 2.
    dimensions: ClassVar[int] = 2
    transposed: ClassVar[bool] = False
    # `groups` divides the padded channels, not in_channels: see `lipnet.layers.group_and_shuffle`.
    pads_channels: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        engine: str = "auto",
        series: str = "chebyshev",
        scaling: str = "jacobian",
        train_terms: int | None = None,
        eval_terms: int | None = None,
        train_tolerance: float = 0.05,
        eval_tolerance: float = 1e-4,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_convolution(
            in_channels, out_channels, kernel_size, stride, padding, dilation, padding_mode, dimensions=self.dimensions
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair(kernel_size, self.dimensions, "kernel_size")
        self.stride = pair(stride, self.dimensions, "stride")
        self.padding_mode = padding_mode
        self._divide_channels(groups)
        self._add_parameters(scaling, bias, device=device, dtype=dtype)
        self.engine, self.series, self.recompute = engine, series, recompute
        self.train_terms, self.eval_terms = train_terms, eval_terms
        self.train_tolerance, self.eval_tolerance = train_tolerance, eval_tolerance
        self._training_series = make_series(self.scaling.expected, train_terms, train_tolerance, series)
        self._evaluation_series = make_series(self.scaling.interval, eval_terms, eval_tolerance, series)
        self._cache: WeightCache[PreparedWeight] = WeightCache()
        self._estimate: WeightCache[Tensor] = WeightCache()
        # `explicit_products` sets ``explicit``: evaluate by plain sums of products. `estimated_scales` sets
        # ``estimated``. With class attributes in their place, these contexts would make torch.compile compile again.
        self.explicit = self.estimated = False
        # Refuse an engine that cannot work now, not at the first image.
        self.choice(1, (1, 1))
        self.reset_parameters()

    def _divide_channels(self, groups: int) -> None:
        """Set the groups, and the numbers of channels after the stride has moved pixels into channels."""
        pixels, power = prod(self.stride), "stride^2" if self.dimensions == 2 else "stride"
        if self.transposed:
            self.channels_in, self.channels_out = self.in_channels, self.out_channels * pixels
            formula = f"max(in_channels, out_channels * {power})"
        else:
            self.channels_in, self.channels_out = self.in_channels * pixels, self.out_channels
            formula = f"max(in_channels * {power}, out_channels)"
        self.channels = max(self.channels_in, self.channels_out)
        check_groups(groups, {formula: self.channels})
        self.groups = groups
        per_group = self.channels // groups
        # Groups whose input is zeros, or whose output is cut off, are not computed.
        self.active_groups = min(-(-self.channels_in // per_group), -(-self.channels_out // per_group))

    def _add_parameters(self, scaling: str, bias: bool, **factory: Any) -> None:
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {tuple(SCALINGS)}, got {scaling!r}")
        self.weight = nn.Parameter(torch.empty(self._weight_shape, **factory))
        # Its buffers are in the state dict, so that an interrupted training continues exactly.
        self.scaling = SCALINGS[scaling](self.groups, self.channels // self.groups, self.kernel_size, **factory)
        self.bias = nn.Parameter(torch.empty(self.out_channels, **factory)) if bias else None

    def reset_parameters(self) -> None:
        """Draw normal weights of standard deviation 1 / sqrt(c/groups), and biases from +-1 / sqrt(out_channels)."""
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight.shape[1]))
        with torch.no_grad():
            self.scaling.reset(skew_filter(self.weight, self.groups))
        reset_bias(self.bias)

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.channels, self.channels // self.groups, *self.kernel_size

    def _check_weights(self) -> None:
        check_odd(self.kernel_size)
        check_weight("weight", self.weight, self._weight_shape)
        check_weight("bias", self.bias, (self.out_channels,))

    def forward(self, x: Tensor) -> Tensor:
        self._check_weights()
        reach = (0, 0) if self.padding_mode == "zeros" else (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        stride = (1, 1) if self.transposed else self.stride
        check_input(type(self).__name__, x, self.weight, self.in_channels, self.dimensions, stride, reach)
        maps = x if x.dim() == self.dimensions + 2 else x.unsqueeze(0)
        for _ in range(2 - self.dimensions):
            maps = maps.unsqueeze(2)
        maps = self._forward(maps)
        for _ in range(2 - self.dimensions):
            maps = maps.squeeze(2)
        return maps if x.dim() == self.dimensions + 2 else maps.squeeze(0)

    def _forward(self, x: Tensor) -> Tensor:
        """Compute the layer on feature maps (B, in_channels, H, W)."""
        maps = self.exponential(space_to_depth(x, self.stride), self.out_channels)
        if self.bias is None:
            return maps
        bias = for_channels(self.bias, maps)
        return maps + bias if torch.is_grad_enabled() else maps.add_(bias)

    def exponential(self, maps: Tensor, channels: int, sign: int = 1) -> Tensor:
        """Return the first ``channels`` channels of exp(sign J) x for feature maps x (B, C, H, W).

        Channels that x lacks count as zeros. Channels of inactive groups are ignored in x, and zeros in the result.
        """
        size = (maps.shape[-2], maps.shape[-1])
        engine = self.engine_for(len(maps), size)
        with without_autocast(maps.device):
            if self.training:
                series = self._training_series
                frozen = is_frozen(self.weight)
                weight = self.scaling.training_step(self._active_weight, sign * series.factor, frozen)
                operand = engine.train(weight, series, size)
            elif self.estimated:
                series = self._evaluation_series
                operand = engine.train(sign * self._estimated_filter() * series.factor, series, size)
            elif not self.explicit and torch.is_grad_enabled() and self.weight.requires_grad:
                prepared = self.prepared()
                skew = skew_filter(self._active_weight.double(), self.active_groups)
                weight, _ = self.scaling.scaled(skew, prepared.vectors, sign * engine.factor(prepared))
                operand = engine.differentiate(weight, prepared, size)
            else:
                operand = engine.evaluate(self.prepared(), size, sign)
        active = self.active_groups * self.weight.shape[1]
        return with_channels(engine.apply(with_channels(maps, active), operand, channels), channels)

    def choice(self, batch: int, size: tuple[int, int]) -> Choice:
        """Return the engine, the reason and the dtype of the products, in the present mode and autocast context.

        Args:
            batch: number of images.
            size: height and width of the maps after the stride.
        """
        situation = Situation(
            padding_mode=self.padding_mode,
            kernel_size=self.kernel_size,
            channels=self.weight.shape[1],
            size=size,
            batch=batch,
            terms=len((self._evaluation_series if self.estimated else self._training_series).coefficients) - 1,
            training=self.training or self.estimated,
            groups=self.active_groups,
            dtype=self.weight.dtype,
            autocast=autocast_dtype(self.weight.device),
        )
        return choose_engine(self.engine, situation)

    def engine_for(self, batch: int, size: tuple[int, int], *, explicit: bool | None = None) -> Engine:
        """Return the engine for a batch of maps of this size after the stride.

        With ``explicit``, it computes plain sums of products, as certificates do; None takes the layer's own setting.
        """
        explicit = self.explicit and not self.training if explicit is None else explicit
        classes = EXPLICIT_ENGINE_CLASSES if explicit else ENGINE_CLASSES
        choice = self.choice(batch, size)
        return classes[choice.engine](self.active_groups, self.padding_mode, choice.dtype, self.recompute)

    def filter(self) -> Tensor:
        """Return the scaled skew filter L of the present mode, (c, c/groups, kh, kw), differentiable."""
        with without_autocast(self.weight.device):
            if self.training:
                return self.scaling.scaled_skew(self.weight, self.scaling.current(self.weight))[0]
            skew = skew_filter(self.weight.double(), self.groups)
            return self.scaling.scaled(skew, self.scaling.converged(skew))[0].to(self.weight.dtype)

    def prepared(self, *, exact: bool = False) -> PreparedWeight:
        """Return the values that evaluation computes from the weight, cached until it or a setting changes.

        ``exact`` compares the weight's values on every device, see `lipnet.layers.cache.WeightCache`.
        """
        # The engines' constants depend on the padding.
        settings = (self.padding_mode, self.series, self.eval_terms, self.eval_tolerance, *self.scaling.settings())
        return self._cache.get([self.weight], self._prepare, settings=settings, exact=exact)

    def _prepare(self) -> PreparedWeight:
        check_not_batched(type(self).__name__, [self.weight])
        skew = skew_filter(self._active_weight.detach().double(), self.active_groups)
        vectors = self.scaling.converged(skew)
        scaled, _ = self.scaling.scaled(skew, vectors)
        interval = expected_norm(scaled, otherwise=self.scaling.interval)
        series = make_series(interval, self.eval_terms, self.eval_tolerance, self.series)
        return prepare_weight(scaled, vectors, series, interval, self.weight.dtype)

    def _estimated_filter(self) -> Tensor:
        """Return the filter of the active groups, with a scale estimated from the vectors of training, cached."""

        def compute() -> Tensor:
            skew = skew_filter(self._active_weight, self.active_groups)
            return self.scaling.scaled(skew, self.scaling.refined(skew, self.scaling.current(self._active_weight)))[0]

        return self._estimate.get([self.weight, *self.scaling.buffers()], compute, settings=self.scaling.settings())

    def lipschitz_bound(self) -> float:
        """Return an upper bound on the Lipschitz constant of the function that the layer computes in its present mode.

        The norm of J is bounded from the filter that the layer convolves with, never from the stored vectors. This
        gives the gain of the polynomial p, max |p(i t)| over |t| <= ||J||. The matrices of the other engines have norm
        at most 1. The bound is infinite if a weight is not finite.

        Raises:
            ValueError: as `check`, in evaluation.
        """
        if not self.training:
            self.check()
            return self.prepared(exact=True).gain
        series, weight = self._training_series, self._active_weight
        with torch.no_grad(), without_autocast(weight.device):
            # The factor is part of the scale, as in a training step, and both are rounded together.
            scaled, _ = self.scaling.scaled_skew(weight, self.scaling.current(weight), series.factor)
            return max(polynomial_gain(series.coefficients, norm_bound(scaled.double())), 1.0)

    def lipschitz_estimate(self) -> float:
        """Return the bound for a filter of the expected norm, without a proof."""
        series = self._evaluation_series
        return max(polynomial_gain(series.coefficients, self.scaling.interval * series.factor), 1.0)

    def check(self) -> None:
        if self.estimated:
            raise ValueError("its scale is an estimate; leave the context estimated_scales before you certify")
        check_padding_mode(self.padding_mode)
        self._check_weights()
        # Another class might return a filter that is not skew.
        check_part("scaling", self.scaling, *SCALINGS.values())

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding error of an evaluation within `explicit_products`."""
        size = self.inner_size(signal.shape)
        with torch.no_grad():
            step = self.engine_for(1, size, explicit=True).rounding_step(self.prepared(exact=True), signal, size)
        pixels = prod(size) * (prod(self.stride) if self.transposed else 1)
        return step.then(addition(signal.after(step, shape), self.bias, pixels))

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the facts behind the bound for samples of this shape: engine, degree, bound on ||J||, interval."""
        return self.engine_for(1, self.inner_size(shape), explicit=True).facts(self.prepared())

    def inner_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the height and width of the maps in the exponential for a sample (C, H, W), (C, L) or (C,)."""
        height, width = (1, 1, *shape[1:])[-2:]
        return (height, width) if self.transposed else (height // self.stride[0], width // self.stride[1])

    def train(self, mode: bool = True) -> Self:
        if mode and not self.training:
            # Training needs the memory.
            self._cache.clear()
            self._estimate.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        kernel_size, stride = self._given(self.kernel_size), self._given(self.stride)
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={kernel_size}, stride={stride}"]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        for name, value in _DEFAULTS.items():
            if getattr(self, name) != value:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts)

    @property
    def _active_weight(self) -> Tensor:
        # Backward copies the gradient of a slice, even of a slice with all groups.
        all_active = self.active_groups == self.groups
        return self.weight if all_active else self.weight[: self.active_groups * self.weight.shape[1]]

    def _given(self, value: tuple[int, int]) -> Any:
        """Invert `lipnet.layers.arguments.pair`."""
        return value if self.dimensions == 2 else value[1]
