"""The engine for circular padding: one matrix per frequency between two Fourier transforms."""

from math import inf, isfinite

import torch
from torch import Tensor

from lipnet.functional.rounding_error import Signal, Step
from lipnet.functional.spectral import apply_spectral, spectral_exponential
from lipnet.functional.spectral_products import real_form, spectral_products, spectral_products_step
from lipnet.layers.engines.base import MatrixEngine
from lipnet.layers.engines.prepared import PreparedWeight


class SpectralEngine(MatrixEngine):
    """Engine that multiplies by exp(A(w)) at each frequency w: same function as `lipnet.functional.reference.soc`.

    In evaluation, the exponential is exact up to rounding. Half precision has no Fourier transforms, so it computes in
    float32 instead.
    """

    name = "spectral"

    @property
    def matrix_dtype(self) -> torch.dtype:
        return torch.promote_types(self._real_dtype, torch.complex64)

    @property
    def _real_dtype(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)

    def exponential(
        self, weight: Tensor, size: tuple[int, int], coefficients: tuple[float, ...] | None = None
    ) -> Tensor:
        precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
        return spectral_exponential(precise, size, self.groups, coefficients=coefficients)

    def multiply(self, maps: Tensor, matrices: Tensor) -> Tensor:
        return apply_spectral(maps.to(self._real_dtype), matrices).to(maps.dtype)


class ExplicitSpectralEngine(SpectralEngine):
    """The spectral engine for certificates, with products instead of Fourier transforms: their rounding has a bound."""

    def evaluate(self, prepared: PreparedWeight, size: tuple[int, int], sign: int = 1) -> Tensor:
        matrices = prepared.constant(
            ("explicit spectral", size), lambda: real_form(super(ExplicitSpectralEngine, self).evaluate(prepared, size))
        )
        assert matrices is not None
        return matrices if sign > 0 else matrices.mT

    def multiply(self, maps: Tensor, matrices: Tensor) -> Tensor:
        return spectral_products(maps.to(self._real_dtype), matrices).to(maps.dtype)

    def rounding_step(self, prepared: PreparedWeight, signal: Signal, size: tuple[int, int]) -> Step:
        if not isfinite(prepared.gain):
            return Step(inf, inf, inf)
        response = super().evaluate(prepared, size)
        return spectral_products_step(signal, response, size, prepared.gain)
