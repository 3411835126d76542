"""What skew-orthogonal layers share: the weights, their scaling, and the exponential by one of three engines."""

from collections.abc import Callable, Sequence
from math import inf, isfinite, sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import (
    apply_dense,
    apply_spectral,
    chebyshev_coefficients,
    contraction,
    dense_exponential,
    exponential_coefficients,
    monic_polynomial,
    operator_tensors,
    polynomial_gain,
    reshaped_filter_bound,
    skew_filter,
    skew_polynomial,
    spectral_exponential,
    symbol_bound,
    taylor_coefficients,
)
from lipnet.functional.explicit import explicit_length, explicit_matrices, explicit_polynomial
from lipnet.functional.rounding_error import (
    Signal,
    Step,
    absolute_filter_norm,
    absolute_norm,
    horner_error,
    products,
    up,
)
from lipnet.layers.cache import WeightCache
from lipnet.layers.engine import Choice, Situation, choose_engine
from lipnet.layers.scaling import SCALINGS

# Grids for the bound on the norm by groups of up to so many channels; beyond, a looser bound is cheaper.
_GRIDS = ((64, 24), (128, 16), (256, 8), (512, 6))
# More than what `polynomial_gain` rounds a norm up by, divided by a series' factor.
_ROOM = 2**-15


class Series(NamedTuple):
    """A polynomial of J as it is computed: sum_k coefficients[k] (factor J)^k, the last coefficient being 1."""

    factor: float
    coefficients: tuple[float, ...]


class Evaluation(NamedTuple):
    """What evaluation needs of the weights, computed once for as long as they do not change."""

    vectors: list[Tensor]  # at which the scaling's norm is attained, float64
    filter: Tensor  # scaled, of the active groups, float64
    factored: Tensor  # the filter times the series' factor, in the weight's dtype
    series: Series
    norm: float  # upper bound on ||J|| of the scaled filter
    factored_norm: float  # and of the filter times the factor
    interval: float  # the norms up to which the series is made for
    gain: float  # upper bound on the norm of the series
    exact: dict[tuple[str, tuple[int, int]], Tensor]  # exponentials that engines keep, by map size


class SkewOrthogonal(nn.Module):
    """exp(J) with a skew convolution J of ``channels`` channels in ``groups``, of which the first are computed.

    Not used by itself: `SOC` and its relatives give it inputs and take outputs, and say what the options mean.

    Args:
        channels: c, of the skew filter.
        active_groups: how many of the groups are computed.
        kernel_size, groups, padding_mode: of the convolution.
        others: as in `SOC`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int],
        groups: int,
        active_groups: int,
        padding_mode: str,
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
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {tuple(SCALINGS)}, received {scaling!r}")
        for terms in (train_terms, eval_terms):
            if terms is not None and terms < 1:
                raise ValueError(
                    f"terms must be at least 1, received {train_terms} (training), {eval_terms} (evaluation)"
                )
        self.channels, self.kernel_size, self.groups = channels, kernel_size, groups
        self.active_groups, self.padding_mode = active_groups, padding_mode
        self.engine, self.series, self.recompute = engine, series, recompute
        self.train_terms, self.eval_terms = train_terms, eval_terms
        self.train_tolerance, self.eval_tolerance = train_tolerance, eval_tolerance

        per_group = channels // groups
        self.weight = nn.Parameter(torch.empty(channels, per_group, *kernel_size, device=device, dtype=dtype))
        # Its buffers are in the state dict, so that an interrupted training continues exactly as it would have.
        self.scaling = SCALINGS[scaling](groups, per_group, kernel_size, device, dtype)
        self._training_series = self._series(self.scaling.expected, train_terms, train_tolerance)
        # Refuse what cannot work now, not at the first image.
        self._series(self.scaling.expected, eval_terms, eval_tolerance)
        self._choice(1, (1, 1))
        self._cache: WeightCache[Evaluation] = WeightCache()
        # Whether evaluation is to take plain sums of products alone: see `lipnet.layers.explicit`.
        self.explicit = False

    def reset_weight(self) -> None:
        """Normal weights of standard deviation 1 / sqrt(channels in a group), and the scaling's vectors for them."""
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight.shape[1]))
        with torch.no_grad():
            self.scaling.reset(skew_filter(self.weight, self.groups))

    def exponential(self, maps: Tensor, channels: int, sign: int = 1) -> Tensor:
        """The first channels of exp(sign J) of maps (B, channels of the active groups, H, W).

        Channels of groups that are not active are zeros.
        """
        size = (maps.shape[-2], maps.shape[-1])
        if self.explicit and not self.training:
            return self._explicit_exponential(maps, channels, sign)
        engine = self._choice(len(maps), size).engine
        with torch.autocast(maps.device.type, enabled=False):
            if self.training:
                operand, series = self._training_operand(engine, size, sign)
            else:
                operand, series = self._evaluation_operand(engine, size, sign)
        if series is not None:
            result = skew_polynomial(
                maps,
                operand,
                series.coefficients,
                self.active_groups,
                self.padding_mode,
                channels=channels,
                recompute=self.recompute,
                kept=self._kept(size) if sign > 0 else (),
            )
            return with_channels(result, channels)
        with torch.autocast(maps.device.type, enabled=False):
            apply = apply_spectral if engine == "spectral" else apply_dense
            return with_channels(apply(maps.to(self.weight.dtype), operand), channels)

    def _explicit_exponential(self, maps: Tensor, channels: int, sign: int) -> Tensor:
        """The same by the kept matrix or by Horner's rule, whose rounding `lipnet.layers.rounding` bounds."""
        size = (maps.shape[-2], maps.shape[-1])
        with torch.autocast(maps.device.type, enabled=False):
            # Weights are constants here: what is kept of them is what the bounds speak of.
            with torch.no_grad():
                operand, series = self._evaluation_operand(self.explicit_engine(size), size, sign)
                matrices = self._kept_matrices(size) if series else None
            if series is None:
                return with_channels(apply_dense(maps, operand), channels)
            result = explicit_polynomial(
                maps,
                operand,
                series.coefficients,
                self.active_groups,
                self.padding_mode,
                channels=min(channels, maps.shape[1]),
                matrices=matrices if matrices is None or sign > 0 else -matrices,
            )
        return with_channels(result, channels)

    def exponential_step(self, signal: Signal, size: tuple[int, int]) -> Step:
        """The rounding of `exponential` with explicit products, on maps of this size after a stride."""
        evaluation = self._evaluated()
        gain = evaluation.gain
        if not isfinite(gain):
            return Step(inf, inf, inf)
        entries = self._active_channels * size[0] * size[1]
        if self.explicit_engine(size) == "dense":
            with torch.no_grad():
                matrix = self._evaluation_operand("dense", size, 1)[0]
            return products(
                signal, length=matrix.shape[-1], magnitude=absolute_norm(matrix), gain=gain, outputs=entries
            )
        error = horner_error(
            evaluation.series.coefficients,
            norm=evaluation.factored_norm,
            magnitude=absolute_filter_norm(evaluation.factored, self.active_groups),
            length=explicit_length(evaluation.factored, size, self.padding_mode),
            size=signal.computed,
            entries=entries,
        )
        return Step(up(gain * signal.norm), gain, error)

    def facts(self, size: tuple[int, int]) -> dict[str, Any]:
        """What the bound of the exponential rests on, for maps of this size: engine, degree, bounds, interval."""
        evaluation, engine = self._evaluated(), self.explicit_engine(size)
        series = engine == "series"
        return {
            "engine": engine,
            "norm_bound": evaluation.norm,
            "degree": len(evaluation.series.coefficients) - 1 if series else None,
            "interval": evaluation.interval if series else None,
        }

    def explicit_engine(self, size: tuple[int, int]) -> str:
        """The engine that certificates take for maps of this size: Fourier transforms give way to the series."""
        engine = self._choice(1, size).engine
        return "series" if engine == "spectral" else engine

    def choice(self, batch: int, size: tuple[int, int]) -> Choice:
        """The engine, and why, for a batch of maps of height and width ``size`` after a stride, in the present mode."""
        return self._choice(batch, size)

    def filter(self) -> Tensor:
        """The scaled skew filter L of the present mode, (c, c/groups, kh, kw), differentiable."""
        with torch.autocast(self.weight.device.type, enabled=False):
            if self.training:
                return self.scaling.scaled_skew(self.weight, self.scaling.stored(self.groups))[0]
            skew = skew_filter(self.weight.double(), self.groups)
            return self.scaling.scaled(skew, self.scaling.converged(skew))[0].to(self.weight.dtype)

    def lipschitz_bound(self) -> float:
        """An upper bound on the Lipschitz constant of the function that this layer computes in its present mode.

        The norm of J is bounded from the filter that is convolved with, never from the stored vectors, and the
        polynomial that stands for the exponential then has the gain max |p(i t)| over |t| <= ||J||. What the other
        engines keep is shrunk to norm 1. Infinite if the weights are not finite.
        """
        if not self.training:
            return self._evaluated().gain
        with torch.no_grad():
            weight = self.filter()[: self._active_channels].double()
            gain = polynomial_gain(
                self._training_series.coefficients, _norm_bound(weight * self._training_series.factor)
            )
        return max(gain, 1.0)

    def train(self, mode: bool = True) -> "SkewOrthogonal":
        self._cache.clear()
        return super().train(mode)

    def check_maps(self, height: int, width: int) -> None:
        """Raise ValueError for maps that the kernel reaches around more than once."""
        reach = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        if self.padding_mode == "circular" and (height < reach[0] or width < reach[1]):
            raise ValueError(f"circular padding of {reach} needs maps no smaller, received {height} x {width}")

    def options_repr(self) -> list[str]:
        """The settings that differ from the usual ones."""
        usual: dict[str, Any] = {"engine": "auto", "series": "chebyshev", "padding_mode": "zeros", "recompute": False}
        return [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]

    @property
    def _active_channels(self) -> int:
        return self.active_groups * self.weight.shape[1]

    @property
    def _active_weight(self) -> Tensor:
        # A slice of everything would be copied in the backward pass.
        return self.weight if self.active_groups == self.groups else self.weight[: self._active_channels]

    def _choice(self, batch: int, size: tuple[int, int]) -> Choice:
        terms = len(self._training_series.coefficients) - 1
        channels = self.weight.shape[1]
        situation = Situation(self.padding_mode, self.kernel_size, channels, size, batch, terms, self.training)
        return choose_engine(self.engine, situation)

    def _series(self, norm: float, terms: int | None, tolerance: float) -> Series:
        if terms is None:
            coefficients = exponential_coefficients(norm, tolerance, self.series)
        elif self.series == "taylor":
            coefficients = taylor_coefficients(terms)
        else:
            coefficients = chebyshev_coefficients(terms, norm)
        return Series(*monic_polynomial(coefficients))

    def _training_operand(self, engine: str, size: tuple[int, int], sign: int) -> tuple[Tensor, Series | None]:
        # By every engine the same polynomial of J, so that none changes what is trained.
        series = self._training_series
        vectors = self.scaling.stored(self.active_groups)
        weight, vectors = self.scaling.scaled_skew(self._active_weight, vectors, sign * series.factor)
        self.scaling.store(vectors)
        if engine == "series":
            return weight, series
        return self._matrices(engine, weight, size, series.coefficients), None

    def _evaluation_operand(self, engine: str, size: tuple[int, int], sign: int) -> tuple[Tensor, Series | None]:
        evaluation = self._evaluated()
        if torch.is_grad_enabled() and self.weight.requires_grad:
            skew = skew_filter(self._active_weight.double(), self.active_groups)
            factor = sign * (evaluation.series.factor if engine == "series" else 1.0)
            weight = self.scaling.scaled(skew, evaluation.vectors, factor)[0]
            if engine == "series":
                return weight.to(self.weight.dtype), evaluation.series
            return self._matrices(engine, weight, size).to(_dtype_of(engine, self.weight.dtype)), None
        if engine == "series":
            return evaluation.factored if sign > 0 else -evaluation.factored, evaluation.series
        key = (engine, self._size_that_matters(size))
        if key not in evaluation.exact:
            finite = isfinite(evaluation.gain)
            dtype = _dtype_of(engine, self.weight.dtype)
            # Outside inference mode, so that the matrices can later take part in a differentiable evaluation.
            with torch.inference_mode(False), torch.no_grad():
                exact = self._matrices(engine, evaluation.filter, size)
                evaluation.exact[key] = contraction(exact, dtype) if finite else exact.to(dtype)
        exact = evaluation.exact[key]
        return exact if sign > 0 else exact.mH, None

    def _kept(self, size: tuple[int, int]) -> list[Tensor]:
        """In evaluation without gradients: what the series makes of the filter for maps of this size."""
        if self.training or (torch.is_grad_enabled() and self.weight.requires_grad) or torch.is_autocast_enabled():
            return []
        evaluation = self._evaluated()
        key = ("series", size)
        if key not in evaluation.exact:
            tensors = operator_tensors(evaluation.factored, size, self.active_groups, self.padding_mode)
            if not tensors:
                return []
            (evaluation.exact[key],) = tensors
        return [evaluation.exact[key]]

    def _kept_matrices(self, size: tuple[int, int]) -> Tensor | None:
        evaluation = self._evaluated()
        key = ("explicit", size)
        if key not in evaluation.exact:
            # Outside inference mode, so that they can later take part in a differentiable evaluation.
            with torch.inference_mode(False), torch.no_grad():
                matrices = explicit_matrices(evaluation.factored, size, self.active_groups, self.padding_mode)
            if matrices is None:
                return None
            evaluation.exact[key] = matrices
        return evaluation.exact[key]

    def _matrices(
        self, engine: str, weight: Tensor, size: tuple[int, int], coefficients: Sequence[float] | None = None
    ) -> Tensor:
        """The exponential, or the polynomial in its place, as matrices."""
        size = self._size_that_matters(size)
        if engine == "spectral":
            return spectral_exponential(weight, size, self.active_groups, coefficients=coefficients)
        return dense_exponential(weight, size, self.active_groups, self.padding_mode, coefficients=coefficients)

    def _size_that_matters(self, size: tuple[int, int]) -> tuple[int, int]:
        return (1, 1) if self.kernel_size == (1, 1) and self.engine != "spectral" else size

    def _evaluated(self) -> Evaluation:
        return self._cache.get(self.weight, self._evaluate)

    def _evaluate(self) -> Evaluation:
        skew = skew_filter(self._active_weight.detach().double(), self.active_groups)
        vectors = self.scaling.converged(skew)
        scaled = self.scaling.scaled(skew, vectors)[0]
        bound = _norm_bound(scaled)
        # The interval leaves room for the rounding of the filter and of its norm below.
        interval = bound * (1 + 1e-3 * torch.finfo(self.weight.dtype).eps ** 0.5) + _ROOM if isfinite(bound) else 1.0
        series = self._series(interval, self.eval_terms, self.eval_tolerance)
        exactly = scaled * series.factor
        factored = exactly.to(self.weight.dtype)
        # A filter of Frobenius norm e moves J by at most sqrt(kh kw) e.
        moved = float((factored.double() - exactly).norm()) * sqrt(self.kernel_size[0] * self.kernel_size[1])
        factored_norm = (bound * series.factor + moved) * (1 + 1e-12)
        gain = polynomial_gain(series.coefficients, factored_norm)
        gain = max(gain, 1.0) if isfinite(gain) else inf
        return Evaluation(vectors, scaled, factored, series, bound, factored_norm, interval, gain, {})


def _norm_bound(weight: Tensor) -> float:
    """An upper bound on ||J|| for a scaled filter: the smaller of two, of which one is tight where that is cheap."""
    channels = weight.shape[1]
    groups = len(weight) // channels
    reshaped = reshaped_filter_bound(weight, groups)
    for most, grid in _GRIDS:
        if channels <= most and max(weight.shape[-2:]) <= grid // 2:
            return min(symbol_bound(weight, groups, grid), reshaped)
    return reshaped


def _dtype_of(engine: str, dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.complex32) if engine == "spectral" else dtype


def map_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a sample (C, H, W), (C, L) or (C,)."""
    height, width = (1, 1, *shape[1:])[-2:]
    return height, width


def with_channels(maps: Tensor, channels: int) -> Tensor:
    """The first ``channels`` channels of the maps, with zeros for those that they do not have."""
    missing = channels - maps.shape[1]
    if missing == 0:
        return maps
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing > 0 else maps[:, :channels]


def per_sample(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of batches (B, C, H, W) to a batch, or to one sample (C, H, W)."""
    return function(x) if x.dim() == 4 else function(x.unsqueeze(0)).squeeze(0)
