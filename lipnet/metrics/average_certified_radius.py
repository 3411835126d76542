"""The metric AverageCertifiedRadius (ACR)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from lipnet.metrics.curve import plot_over_evaluations
from lipnet.metrics.functional import (
    _average_certified_radius_compute,
    _average_certified_radius_update,
    _samples_validation,
)


class AverageCertifiedRadius(Metric):
    """The mean certified radius of the samples predicted correctly (ACR).

    A radius that is NaN, infinite or negative counts as 0, its sample as a correct one still. The states are
    a sum that stays in float64 whatever dtype the module around it takes, and a count: the figure of several
    processes is that of one but for the order of the sum.

    As input to ``forward`` and ``update`` the metric accepts ``radius``, floating of shape (B,), L2 in pixels
    of [0, 1], and ``correct``, bool of shape (B,). As output of ``forward`` and ``compute`` it returns a
    float64 scalar in pixels of [0, 1]; NaN as long as no sample is correct.

    Args:
        kwargs: torchmetrics' own settings.

    Example:
        >>> metric = AverageCertifiedRadius()
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> metric(radius, correct)
        tensor(0.2667, dtype=torch.float64)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0

    radius_sum: Tensor
    correct_total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("radius_sum", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("correct_total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Add the samples: ``radius`` (B,) floating and ``correct`` (B,) bool, else ValueError."""
        _samples_validation(radius, correct)
        radius_sum, correct_total = _average_certified_radius_update(radius, correct)
        self.radius_sum += radius_sum
        self.correct_total += correct_total

    def compute(self) -> Tensor:
        """Return the average certified radius, a float64 scalar."""
        return _average_certified_radius_compute(self.radius_sum, self.correct_total)

    def plot(
        self,
        val: Tensor | Sequence[Tensor] | None = None,
        ax: Axes | None = None,
    ) -> tuple[Figure, Axes]:
        """Draw the average certified radius of one evaluation or of several in a row.

        Args:
            val: a result of ``forward`` or ``compute``, or a sequence of them; the present result if None.
            ax: where to draw; a new figure if None.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: if a result is no single number, or there is none to draw.
        """
        results = self.compute() if val is None else val
        sequence = [results] if isinstance(results, Tensor) else list(results)
        return plot_over_evaluations(sequence, "average certified radius (L2, pixels in [0, 1])", ax=ax)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Follow a move to another device, but keep every state's dtype.

        ``module.to(torch.bfloat16)`` on the module that holds the metric would else cut the sum to 8 bits.
        """
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)
