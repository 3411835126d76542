"""The engine for 1 x 1 kernels and small maps: exp(J) as one matrix per group."""

from collections.abc import Hashable
from math import inf, isfinite

import torch
from torch import Tensor

from lipnet.functional.exponential import apply_dense, dense_exponential
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, products
from lipnet.layers.engines.base import MatrixEngine
from lipnet.layers.engines.prepared import PreparedWeight


class DenseEngine(MatrixEngine):
    """Engine that multiplies by exp(J) as a dense matrix: same function as `lipnet.functional.reference.soc`.

    In evaluation, the exponential is exact up to rounding.
    """

    name = "dense"

    @property
    def matrix_dtype(self) -> torch.dtype:
        return self.dtype

    def key(self, weight: Tensor, size: tuple[int, int]) -> Hashable:
        return self.name, _matrix_size(weight, size)

    def exponential(
        self, weight: Tensor, size: tuple[int, int], coefficients: tuple[float, ...] | None = None
    ) -> Tensor:
        size = _matrix_size(weight, size)
        return dense_exponential(weight, size, self.groups, self.padding_mode, coefficients=coefficients)

    def multiply(self, maps: Tensor, matrices: Tensor) -> Tensor:
        return apply_dense(maps, matrices)

    def rounding_step(self, prepared: PreparedWeight, signal: Signal, size: tuple[int, int]) -> Step:
        if not isfinite(prepared.gain):
            return Step(inf, inf, inf)
        matrix = self.evaluate(prepared, size)
        return products(
            signal,
            length=matrix.shape[-1],
            magnitude=absolute_norm(matrix),
            gain=prepared.gain,
            outputs=len(prepared.factored) * size[0] * size[1],
        )


def _matrix_size(weight: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Return the map size that the matrix depends on: a 1 x 1 kernel has the same matrix at every pixel."""
    return (1, 1) if weight.shape[-2:] == (1, 1) else size
