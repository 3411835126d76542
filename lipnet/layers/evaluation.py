"""What a skew-orthogonal layer evaluates: computed from its weights once, for as long as they do not change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipnet.functional import (
    contraction,
    dense_exponential,
    operator_tensors,
    polynomial_gain,
    reshaped_filter_bound,
    spectral_exponential,
    symbol_bound,
)
from lipnet.functional.explicit import explicit_length, explicit_matrices
from lipnet.functional.rounding_error import (
    Signal,
    Step,
    absolute_filter_norm,
    absolute_norm,
    horner_error,
    products,
    up,
)
from lipnet.layers.scaling import Scaling

# Grids for the bound on the norm by groups of up to so many channels; beyond, a looser bound is cheaper.
_GRIDS = ((64, 24), (128, 16), (256, 8), (512, 6))
# More than what `polynomial_gain` rounds a norm up by, divided by a series' factor.
_ROOM = 2**-15


class Series(NamedTuple):
    """A polynomial of J as it is computed: sum_k coefficients[k] (factor J)^k, the last coefficient being 1."""

    factor: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scaled filter of a layer, its series, and the bounds on both.

    Attributes:
        vectors: at which the scaling's norm is attained, float64.
        filter: scaled, of the active groups, float64.
        factored: the filter times the series' factor, in the weight's dtype.
        series: what stands for the exponential.
        norm: upper bound on ||J|| of the scaled filter.
        factored_norm: upper bound on the norm of the factored filter's J.
        interval: the norms up to which the series is made for.
        gain: upper bound on the norm of the series; infinite if the weights are not finite.
        groups: that are active.
        padding_mode: of the convolution.
        kept: what engines keep, by their name and the size of the maps.
    """

    vectors: list[Tensor]
    filter: Tensor
    factored: Tensor
    series: Series
    norm: float
    factored_norm: float
    interval: float
    gain: float
    groups: int
    padding_mode: str
    kept: dict[tuple[str, tuple[int, int]], Tensor] = field(default_factory=dict)

    def exact(self, engine: str, size: tuple[int, int]) -> Tensor:
        """The exponential as the spectral or the dense engine keeps it for maps of this size: of norm 1 at most."""
        key = (engine, size_that_matters(self.filter, engine, size))
        if key not in self.kept:
            dtype = exact_dtype(engine, self.factored.dtype)
            # Outside inference mode, so that the matrices can later take part in a differentiable evaluation.
            with torch.inference_mode(False), torch.no_grad():
                exact = exponential_matrices(engine, self.filter, size, self.groups, self.padding_mode)
                self.kept[key] = contraction(exact, dtype) if isfinite(self.gain) else exact.to(dtype)
        return self.kept[key]

    def operator(self, size: tuple[int, int]) -> list[Tensor]:
        """What the series makes of the filter for maps of this size, if that is worth keeping."""
        key = ("series", size)
        if key not in self.kept:
            tensors = operator_tensors(self.factored, size, self.groups, self.padding_mode)
            if not tensors:
                return []
            (self.kept[key],) = tensors
        return [self.kept[key]]

    def explicit(self, size: tuple[int, int]) -> Tensor | None:
        """The matrices of the factored filter for maps so small that explicit products take these; None for others."""
        key = ("explicit", size)
        if key not in self.kept:
            # Outside inference mode, so that they can later take part in a differentiable evaluation.
            with torch.inference_mode(False), torch.no_grad():
                matrices = explicit_matrices(self.factored, size, self.groups, self.padding_mode)
            if matrices is None:
                return None
            self.kept[key] = matrices
        return self.kept[key]

    def step(self, signal: Signal, engine: str, size: tuple[int, int]) -> Step:
        """The rounding of the exponential by explicit products, on maps of this size."""
        if not isfinite(self.gain):
            return Step(inf, inf, inf)
        entries = len(self.factored) * size[0] * size[1]
        if engine == "dense":
            matrix = self.exact(engine, size)
            return products(
                signal, length=matrix.shape[-1], magnitude=absolute_norm(matrix), gain=self.gain, outputs=entries
            )
        error = horner_error(
            self.series.coefficients,
            norm=self.factored_norm,
            magnitude=absolute_filter_norm(self.factored, self.groups),
            length=explicit_length(self.factored, size, self.padding_mode),
            size=signal.computed,
            entries=entries,
        )
        return Step(up(self.gain * signal.norm), self.gain, error)

    def facts(self, engine: str) -> dict[str, Any]:
        """What the bound rests on: engine, bound on ||J||, degree and interval of the series."""
        series = engine == "series"
        return {
            "engine": engine,
            "norm_bound": self.norm,
            "degree": len(self.series.coefficients) - 1 if series else None,
            "interval": self.interval if series else None,
        }


def evaluate(
    skew: Tensor, scaling: Scaling, series_up_to: Callable[[float], Series], padding_mode: str, dtype: torch.dtype
) -> Evaluation:
    """Scale a filter, bound its norm, and make a series for that.

    Args:
        skew: filter of the active groups (c, c/groups, kh, kw), float64.
        scaling: of the layer; its stored vectors are not read.
        series_up_to: gives the series for norms up to a number.
        padding_mode: of the convolution.
        dtype: of the layer's weights.
    """
    vectors = scaling.converged(skew)
    scaled = scaling.scaled(skew, vectors)[0]
    bound = norm_bound(scaled)
    # The interval leaves room for the rounding of the filter and of its norm below.
    interval = bound * (1 + 1e-3 * torch.finfo(dtype).eps ** 0.5) + _ROOM if isfinite(bound) else 1.0
    series = series_up_to(interval)
    exactly = scaled * series.factor
    factored = exactly.to(dtype)
    # A filter of Frobenius norm e moves J by at most sqrt(kh kw) e.
    moved = float((factored.double() - exactly).norm()) * sqrt(prod(skew.shape[-2:]))
    factored_norm = (bound * series.factor + moved) * (1 + 1e-12)
    gain = polynomial_gain(series.coefficients, factored_norm)
    return Evaluation(
        vectors=vectors,
        filter=scaled,
        factored=factored,
        series=series,
        norm=bound,
        factored_norm=factored_norm,
        interval=interval,
        gain=max(gain, 1.0) if isfinite(gain) else inf,
        groups=len(skew) // skew.shape[1],
        padding_mode=padding_mode,
    )


def norm_bound(weight: Tensor) -> float:
    """An upper bound on ||J|| for a scaled filter: the smaller of two, of which one is tight where that is cheap."""
    channels = weight.shape[1]
    groups = len(weight) // channels
    reshaped = reshaped_filter_bound(weight, groups)
    for most, grid in _GRIDS:
        if channels <= most and max(weight.shape[-2:]) <= grid // 2:
            return min(symbol_bound(weight, groups, grid), reshaped)
    return reshaped


def exponential_matrices(
    engine: str,
    weight: Tensor,
    size: tuple[int, int],
    groups: int,
    padding_mode: str,
    coefficients: Sequence[float] | None = None,
) -> Tensor:
    """The exponential, or the polynomial in its place, as the matrices of the spectral or of the dense engine."""
    size = size_that_matters(weight, engine, size)
    if engine == "spectral":
        return spectral_exponential(weight, size, groups, coefficients=coefficients)
    return dense_exponential(weight, size, groups, padding_mode, coefficients=coefficients)


def size_that_matters(weight: Tensor, engine: str, size: tuple[int, int]) -> tuple[int, int]:
    """A 1 x 1 kernel has one dense matrix for all pixels."""
    return (1, 1) if weight.shape[-2:] == (1, 1) and engine != "spectral" else size


def exact_dtype(engine: str, dtype: torch.dtype) -> torch.dtype:
    """Of an engine's matrices, for weights of a dtype."""
    return torch.promote_types(dtype, torch.complex32) if engine == "spectral" else dtype
