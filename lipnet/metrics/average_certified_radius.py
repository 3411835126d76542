"""The average certified radius (ACR) as a torchmetrics metric."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lipnet.metrics.base import RadiusMetric
from lipnet.metrics.curve import plot_over_evaluations
from lipnet.metrics.functional import _proven_radius, _samples_validation


class AverageCertifiedRadius(RadiusMetric):
    """Mean certified radius of the correctly predicted samples (ACR).

    A NaN, infinite or negative radius counts as 0, and its sample still counts as correct. The states are a count and a
    sum that stays in float64, so several processes get the same result as one, up to the order of the sum.

    ``forward`` and ``update`` take ``radius``, floating of shape (B,), L2 for pixels in [0, 1], and ``correct``, bool
    of shape (B,). ``forward`` and ``compute`` return a float64 scalar for pixels in [0, 1], or NaN as long as no sample
    is correct.

    Args:
        kwargs: settings of ``torchmetrics.Metric``.

    Example:
        >>> metric = AverageCertifiedRadius()
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> metric(radius, correct)
        tensor(0.2667, dtype=torch.float64)
    """

    radius_sum: Tensor
    correct_total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("radius_sum", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("correct_total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Add samples; ValueError unless ``radius`` is floating of shape (B,) and ``correct`` bool of shape (B,)."""
        _samples_validation(radius, correct)
        self.radius_sum += _proven_radius(radius, correct).sum()
        self.correct_total += correct.sum()

    def compute(self) -> Tensor:
        """Compute the average certified radius, a float64 scalar."""
        return self.radius_sum / self.correct_total

    def _plot_results(self, results: list[Tensor], ax: Axes | None) -> tuple[Figure, Axes]:
        return plot_over_evaluations(results, "average certified radius (L2, pixels in [0, 1])", ax=ax)
