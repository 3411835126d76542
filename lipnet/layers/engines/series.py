"""The engine that sums exp(J) x as a polynomial of J, one convolution per degree."""

from math import inf, isfinite
from typing import Any, NamedTuple

from torch import Tensor

from lipnet.functional import skew_polynomial
from lipnet.functional.autocast import without_autocast
from lipnet.functional.explicit import explicit_length, explicit_matrices, explicit_polynomial, horner_error
from lipnet.functional.forms import form_matrices
from lipnet.functional.rounding_error import Signal, Step, absolute_filter_norm, up
from lipnet.layers.engines.base import Engine
from lipnet.layers.engines.prepared import PreparedWeight, Series


class Polynomial(NamedTuple):
    """The operand of the series.

    Attributes:
        filter: multiplied by the series' factor.
        coefficients: of the series.
        matrices: result of `form_matrices` or `explicit_matrices` for this map size, cached.
    """

    filter: Tensor
    coefficients: tuple[float, ...]
    matrices: Tensor | None = None


class SeriesEngine(Engine):
    """Engine that computes p(J) x by `skew_polynomial`: same function as `lipnet.functional.reference.polynomial`."""

    name = "series"

    def train(self, weight: Tensor, series: Series, size: tuple[int, int]) -> Polynomial:
        return Polynomial(weight, series.coefficients)

    def factor(self, prepared: PreparedWeight) -> float:
        return prepared.series.factor

    def differentiate(self, weight: Tensor, prepared: PreparedWeight, size: tuple[int, int]) -> Polynomial:
        return Polynomial(weight.to(self.dtype), prepared.series.coefficients)

    def evaluate(self, prepared: PreparedWeight, size: tuple[int, int], sign: int = 1) -> Polynomial:
        if sign < 0:
            return Polynomial(-prepared.factored, prepared.series.coefficients)
        matrices = prepared.constant(
            ("series", size), lambda: form_matrices(prepared.factored, size, self.groups, self.padding_mode)
        )
        return Polynomial(prepared.factored, prepared.series.coefficients, matrices)

    def apply(self, maps: Tensor, operand: Polynomial, channels: int) -> Tensor:
        return skew_polynomial(
            maps,
            operand.filter,
            operand.coefficients,
            self.groups,
            self.padding_mode,
            channels=channels,
            recompute=self.recompute,
            matrices=operand.matrices,
        )

    def facts(self, prepared: PreparedWeight) -> dict[str, Any]:
        degree = len(prepared.series.coefficients) - 1
        return {**super().facts(prepared), "degree": degree, "interval": prepared.interval}

    def constant(self, prepared: PreparedWeight, size: tuple[int, int], sign: int) -> Tensor:
        return prepared.factored if sign > 0 else -prepared.factored

    def apply_constant(self, maps: Tensor, constant: Tensor, prepared: PreparedWeight, channels: int) -> Tensor:
        channels = min(channels, maps.shape[1])
        coefficients = prepared.series.coefficients
        return explicit_polynomial(maps, constant, coefficients, self.groups, self.padding_mode, channels=channels)


class ExplicitSeriesEngine(SeriesEngine):
    """The series for certificates. In evaluation, it uses plain sums of products, whose rounding has a bound."""

    def evaluate(self, prepared: PreparedWeight, size: tuple[int, int], sign: int = 1) -> Polynomial:
        matrices = prepared.constant(
            ("explicit", size), lambda: explicit_matrices(prepared.factored, size, self.groups, self.padding_mode)
        )
        if matrices is not None and sign < 0:
            matrices = -matrices
        return Polynomial(self.constant(prepared, size, sign), prepared.series.coefficients, matrices)

    def apply(self, maps: Tensor, operand: Polynomial, channels: int) -> Tensor:
        with without_autocast(maps.device):
            return explicit_polynomial(
                maps,
                operand.filter,
                operand.coefficients,
                self.groups,
                self.padding_mode,
                channels=min(channels, maps.shape[1]),
                matrices=operand.matrices,
            )

    def rounding_step(self, prepared: PreparedWeight, signal: Signal, size: tuple[int, int]) -> Step:
        if not isfinite(prepared.gain):
            return Step(inf, inf, inf)
        error = horner_error(
            prepared.series.coefficients,
            norm=prepared.factored_norm,
            magnitude=absolute_filter_norm(prepared.factored, self.groups),
            length=explicit_length(prepared.factored, size, self.padding_mode),
            size=signal.computed,
            entries=len(prepared.factored) * size[0] * size[1],
        )
        return Step(up(prepared.gain * signal.norm), prepared.gain, error)
