"""The metric CertifiedAccuracy: certified accuracy at chosen radii."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics.curve import plot_accuracy_at_radii
from lipnet.metrics.functional import (
    _certified_accuracy_compute,
    _certified_accuracy_update,
    _radii_validation,
    _samples_validation,
)


class CertifiedAccuracy(Metric):
    """The fraction of samples that are predicted correctly and certified beyond each of the given radii.

    A sample counts at r iff its prediction is correct and its certified radius is greater than r (open ball),
    compared in float64. A radius that is NaN or infinite counts as 0. The states are integer counts, so that
    the figures of several processes are exactly those of one.

    As input to ``forward`` and ``update`` the metric accepts ``radius``, floating of shape (B,), L2 in pixels
    of [0, 1], and ``correct``, bool of shape (B,). As output of ``forward`` and ``compute`` it returns
    float64 of shape (R,), each in [0, 1]; a scalar for a single radius, as torchmetrics returns every single
    number; NaN before the first sample.

    Args:
        radii: the R radii to report, each a fraction, a decimal or a number, such as ``"36/255"``; their text
            names them.
        kwargs: torchmetrics' own settings.

    Raises:
        ValueError: if ``radii`` is empty, repeats one or holds one that cannot be read.

    Example:
        >>> metric = CertifiedAccuracy(["36/255", "72/255"])
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> metric(radius, correct)
        tensor([0.5000, 0.2500], dtype=torch.float64)
        >>> metric.named()
        {'36/255': 0.5, '72/255': 0.25}
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    certified: Tensor
    total: Tensor

    def __init__(self, radii: Sequence[str | float] = STANDARD_RADII, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.radii, self.thresholds = _radii_validation(radii)
        certified = torch.zeros(len(self.radii), dtype=torch.int64)
        self.add_state("certified", default=certified, dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Count the samples: ``radius`` (B,) floating and ``correct`` (B,) bool, else ValueError."""
        _samples_validation(radius, correct)
        certified, total = _certified_accuracy_update(radius, correct, self.thresholds)
        self.certified += certified
        self.total += total

    def compute(self) -> Tensor:
        """Return the certified accuracy at each radius, float64."""
        return _certified_accuracy_compute(self.certified, self.total)

    def named(self) -> dict[str, float]:
        """Return :meth:`compute`'s result with each radius' text as its key, in the order of ``radii``."""
        return dict(zip(self.radii, self.compute().reshape(-1).tolist(), strict=True))

    def plot(
        self,
        val: Tensor | Sequence[Tensor] | None = None,
        ax: Axes | None = None,
    ) -> tuple[Figure, Axes]:
        """Draw certified accuracy against radius, marked at ``radii``.

        Args:
            val: a result of ``forward`` or ``compute``, or a sequence of them, drawn as one line each; the
                present result if None.
            ax: where to draw; a new figure if None.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: if a result does not have one value for each of ``radii``, or there is none to draw.
        """
        results = self.compute() if val is None else val
        sequence = [results] if isinstance(results, Tensor) else list(results)
        return plot_accuracy_at_radii(self.radii, [result.reshape(-1) for result in sequence], ax=ax)
