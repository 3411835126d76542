"""The interface of the engines."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipnet.functional.autocast import without_autocast
from lipnet.functional.contractions import orthogonal_contractions
from lipnet.functional.exponential import exact_coefficients
from lipnet.functional.rounding_error import Signal, Step
from lipnet.layers.engines.prepared import PreparedWeight, Series


@dataclass(frozen=True)
class Engine(ABC):
    """A way to compute exp(J) x on feature maps.

    A layer first asks for the operand of its mode, then applies it:

        training                   operand = engine.train(filter, series, size)
        evaluation                 operand = engine.evaluate(prepared, size, sign)
        ... with gradients         operand = engine.differentiate(filter, prepared, size)
        result                     engine.apply(maps, operand, channels)

    In training, all engines compute the same polynomial of J, so the choice of an engine does not change the training.
    In evaluation without gradients, the norm of the operator that an engine applies is at most ``prepared.gain``.

    Args:
        groups: active groups of the convolution.
        padding_mode: of the convolution.
        dtype: in which feature maps are multiplied, see `lipnet.layers.engines.choose.Choice`.
        recompute: save only the input for backward, if the engine can.
    """

    name: ClassVar[str]

    groups: int
    padding_mode: str
    dtype: torch.dtype
    recompute: bool = False

    @abstractmethod
    def train(self, weight: Tensor, series: Series, size: tuple[int, int]) -> Any:
        """Return the operand of a training step for the scaled filter, already multiplied by ``series.factor``."""

    def factor(self, prepared: PreparedWeight) -> float:
        """Return the factor by which the filter must be multiplied before `differentiate`."""
        return 1.0

    @abstractmethod
    def differentiate(self, weight: Tensor, prepared: PreparedWeight, size: tuple[int, int]) -> Any:
        """Return the operand of evaluation for a differentiable float64 filter, already multiplied by `factor`."""

    @abstractmethod
    def evaluate(self, prepared: PreparedWeight, size: tuple[int, int], sign: int = 1) -> Any:
        """Return the operand of evaluation for exp(sign J), from constants cached for each weight and map size."""

    @abstractmethod
    def apply(self, maps: Tensor, operand: Any, channels: int) -> Tensor:
        """Apply the operand to maps (B, c, H, W), with the channels of the active groups.

        Only the first ``channels`` channels of the result are needed. An engine may return more.
        """

    def rounding_step(self, prepared: PreparedWeight, signal: Signal, size: tuple[int, int]) -> Step:
        """Bound the rounding of `apply` in evaluation.

        Raises:
            NotImplementedError: for an engine without explicit sums of products.
        """
        raise NotImplementedError(f"the rounding of engine {self.name!r} has no bound")

    def facts(self, prepared: PreparedWeight) -> dict[str, Any]:
        """Return the facts behind the bound: engine, bound on ||J||, degree and interval of the series."""
        return {"engine": self.name, "norm_bound": prepared.norm, "degree": None, "interval": None}

    @abstractmethod
    def constant(self, prepared: PreparedWeight, size: tuple[int, int], sign: int) -> Tensor:
        """Return the tensor that an exported model stores for exp(sign J) on maps of this size."""

    @abstractmethod
    def apply_constant(self, maps: Tensor, constant: Tensor, prepared: PreparedWeight, channels: int) -> Tensor:
        """Compute `apply` by plain operations on the exported constant."""


class MatrixEngine(Engine):
    """An engine that multiplies by matrices. `evaluate` shrinks them to norm at most 1; `differentiate` does not."""

    @abstractmethod
    def exponential(
        self, weight: Tensor, size: tuple[int, int], coefficients: tuple[float, ...] | None = None
    ) -> Tensor:
        """Return exp(J), or the polynomial of J with these coefficients, as matrices."""

    @abstractmethod
    def multiply(self, maps: Tensor, matrices: Tensor) -> Tensor:
        """Apply the matrices to feature maps (B, c, H, W) of the same precision."""

    @property
    @abstractmethod
    def matrix_dtype(self) -> torch.dtype:
        """Return the dtype in which the engine stores the matrices."""

    def train(self, weight: Tensor, series: Series, size: tuple[int, int]) -> Tensor:
        return self.exponential(weight, size, series.coefficients).to(self.matrix_dtype)

    def differentiate(self, weight: Tensor, prepared: PreparedWeight, size: tuple[int, int]) -> Tensor:
        return self.exponential(weight, size).to(self.matrix_dtype)

    def evaluate(self, prepared: PreparedWeight, size: tuple[int, int], sign: int = 1) -> Tensor:
        def compute() -> Tensor:
            # This polynomial equals exp up to rounding for norms up to 1.2 times the expected one.
            coefficients = exact_coefficients(1.2 * prepared.interval)
            matrices = self.exponential(prepared.filter, size, coefficients)
            if not prepared.finite:
                return matrices.to(self.matrix_dtype)
            try:
                return orthogonal_contractions(matrices, self.matrix_dtype)
            except ValueError:
                # The norm is larger than expected: compute the exponential itself.
                return orthogonal_contractions(self.exponential(prepared.filter, size), self.matrix_dtype)

        matrices = prepared.constant(self.key(prepared.filter, size), compute)
        assert matrices is not None
        return matrices if sign > 0 else matrices.mH

    def key(self, weight: Tensor, size: tuple[int, int]) -> Hashable:
        """Return the cache key of the matrices for maps of this size."""
        return self.name, size

    def apply(self, maps: Tensor, operand: Tensor, channels: int) -> Tensor:
        with without_autocast(maps.device):
            return self.multiply(maps.to(self.dtype), operand)

    def constant(self, prepared: PreparedWeight, size: tuple[int, int], sign: int) -> Tensor:
        return self.evaluate(prepared, size, sign)

    def apply_constant(self, maps: Tensor, constant: Tensor, prepared: PreparedWeight, channels: int) -> Tensor:
        return self.apply(maps, constant, channels)
