"""The engine for circular padding: one matrix per frequency between two Fourier transforms."""

import torch
from torch import Tensor

from lipnet.functional.spectral import apply_spectral, spectral_exponential
from lipnet.layers.engines.base import MatrixEngine


class SpectralEngine(MatrixEngine):
    """exp(A(w)) at each frequency w, exact in evaluation; same function as `lipnet.functional.reference.soc`, faster.

    Half precision has no Fourier transforms: there it computes in float32.
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
