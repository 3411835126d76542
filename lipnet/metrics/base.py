"""Base class of the metrics on certified radii."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric


class RadiusMetric(Metric):
    """A metric on certified radii (B,) and correctness (B,). Its states keep their dtype when its module is cast."""

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Plot one result, or the results of successive evaluations.

        Args:
            val: a result of ``forward`` or ``compute``, or a sequence of them; None for the current result.
            ax: axes to draw on; None for a new figure.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: a result has another shape than ``compute`` returns, or there is none.
        """
        results = self.compute() if val is None else val
        results = [results] if isinstance(results, Tensor) else list(results)
        if not results:
            raise ValueError("a plot needs at least one result, got none")
        return self._plot_results(results, ax)

    def _plot_results(self, results: list[Tensor], ax: Axes | None) -> tuple[Figure, Axes]:
        """Plot at least one result."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Module:
        """Follow a move to another device, but keep the dtype of every state.

        ``module.to(torch.bfloat16)`` on the module that owns the metric would cut a float64 sum to 8 bits.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)
