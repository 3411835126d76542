"""Certified accuracy at chosen radii as a torchmetrics metric."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import Metric

from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics.base import RadiusMetric
from lipnet.metrics.curve import plot_accuracy_at_radii
from lipnet.metrics.functional import _certified_accuracy_update, _samples_validation, check_radii


def _shared_text(texts: Tensor) -> Tensor:
    """Return the radii that several processes or metrics share, from their bytes (N, L).

    Raises:
        ValueError: they have other radii.
    """
    if bool((texts != texts[0]).any()):
        found = dict.fromkeys(bytes(text.tolist()).decode() for text in texts)
        raise ValueError(f"CertifiedAccuracy needs the same radii in all processes, got {' and '.join(found)}")
    return texts[0]


class CertifiedAccuracy(RadiusMetric):
    """Fraction of samples predicted correctly and certified beyond each of the given radii.

    A sample counts at r if its prediction is correct and its certified radius is greater than r (open ball), compared
    in float64. A NaN or infinite radius counts as 0. The states are integer counts, so several processes get exactly
    the same result as one. The radii are part of the state: metrics with other radii are neither merged with this one
    nor put into one compute group of a ``MetricCollection``.

    ``forward`` and ``update`` take ``radius``, floating of shape (B,), L2 for pixels in [0, 1], and ``correct``, bool
    of shape (B,). ``forward`` and ``compute`` return float64 of shape (R,), each in [0, 1]. For a single radius it is a
    scalar, as torchmetrics returns every single number. It is NaN before the first sample.

    Args:
        radii: the R radii to report, each a fraction, a decimal or a number, such as ``"36/255"``. The radii are named
            as written.
        kwargs: settings of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``radii`` is empty, repeats a radius or holds one that cannot be parsed.

    Example:
        >>> metric = CertifiedAccuracy(["36/255", "72/255"])
        >>> radius = torch.tensor([0.50, 0.20, 0.90, 0.10])
        >>> correct = torch.tensor([True, True, False, True])
        >>> metric(radius, correct)
        tensor([0.5000, 0.2500], dtype=torch.float64)
        >>> metric.named()
        {'36/255': 0.5, '72/255': 0.25}
    """

    plot_upper_bound: float = 1.0

    certified: Tensor
    total: Tensor
    radii_text: Tensor

    def __init__(self, radii: Sequence[str | float] = STANDARD_RADII, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.radii, self.thresholds = check_radii(radii)
        certified = torch.zeros(len(self.radii), dtype=torch.int64)
        self.add_state("certified", default=certified, dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")
        # torchmetrics only distinguishes metrics by their states, which it compares with a tolerance. So the state
        # holds the bytes of the names, not the numbers.
        text = torch.tensor(list(" ".join(self.radii).encode()), dtype=torch.uint8)
        self.add_state("radii_text", default=text, dist_reduce_fx=_shared_text)

    def update(self, radius: Tensor, correct: Tensor) -> None:
        """Count samples; ValueError unless ``radius`` is floating of shape (B,) and ``correct`` bool of shape (B,)."""
        _samples_validation(radius, correct)
        certified, total = _certified_accuracy_update(radius, correct, self.thresholds)
        self.certified += certified
        self.total += total

    def compute(self) -> Tensor:
        """Compute the certified accuracy at each radius, float64.

        Raises:
            ValueError: the counts are at other radii, such as those of a loaded state dict.
        """
        self._check_radii(self.radii_text)
        return self.certified.to(torch.float64) / self.total

    def named(self) -> dict[str, float]:
        """Return the result of :meth:`compute` by the name of each radius, in the order of ``radii``."""
        return dict(zip(self.radii, self.compute().reshape(-1).tolist(), strict=True))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the counts of another metric, or of its state dict.

        Raises:
            ValueError: the other metric has other radii.
        """
        state: dict[str, Any] = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        self._check_radii(state.get("radii_text"))
        super().merge_state(incoming_state)

    def _check_radii(self, radii_text: Tensor | None) -> None:
        text = "unknown radii" if radii_text is None else bytes(radii_text.tolist()).decode()
        if text != " ".join(self.radii):
            raise ValueError(f"CertifiedAccuracy needs the counts at {' '.join(self.radii)}, got those at {text}")

    def _plot_results(self, results: list[Tensor], ax: Axes | None) -> tuple[Figure, Axes]:
        return plot_accuracy_at_radii(self.radii, [result.reshape(-1) for result in results], ax=ax)
