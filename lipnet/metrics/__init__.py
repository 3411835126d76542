"""torchmetrics metrics of certified robustness, and plots of certified accuracy.

The functional versions are in :mod:`lipnet.metrics.functional`. The names are imported at first use: torchmetrics takes
seconds to import, and certificates only need the functional versions.
"""

from typing import TYPE_CHECKING

from lipnet.lazy import lazy_attributes

if TYPE_CHECKING:
    from lipnet.metrics.average_certified_radius import AverageCertifiedRadius
    from lipnet.metrics.certified_accuracy import CertifiedAccuracy
    from lipnet.metrics.curve import certified_curve, plot_certified_curve

__all__ = ["AverageCertifiedRadius", "CertifiedAccuracy", "certified_curve", "plot_certified_curve"]

__getattr__ = lazy_attributes(
    {
        "AverageCertifiedRadius": "lipnet.metrics.average_certified_radius",
        "CertifiedAccuracy": "lipnet.metrics.certified_accuracy",
        "certified_curve": "lipnet.metrics.curve",
        "plot_certified_curve": "lipnet.metrics.curve",
    }
)
