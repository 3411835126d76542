"""torchmetrics metrics of certified robustness, and plots of certified accuracy.

The functional versions are in :mod:`lipnet.metrics.functional`.
"""

from lipnet.metrics.average_certified_radius import AverageCertifiedRadius
from lipnet.metrics.certified_accuracy import CertifiedAccuracy
from lipnet.metrics.curve import certified_curve, plot_certified_curve

__all__ = ["AverageCertifiedRadius", "CertifiedAccuracy", "certified_curve", "plot_certified_curve"]
