"""Training with Lightning; certification needs nothing of it."""

from lipnet.training.checkpoint_io import WholeCheckpointIO
from lipnet.training.losses import CertificateRegularization, LogitAnnealing, MulticlassHinge, OffsetCrossEntropy
from lipnet.training.module import CertifiedClassifier, certified_accuracy_key
from lipnet.training.schedules import step_schedule

__all__ = [
    "CertificateRegularization",
    "CertifiedClassifier",
    "LogitAnnealing",
    "MulticlassHinge",
    "OffsetCrossEntropy",
    "WholeCheckpointIO",
    "certified_accuracy_key",
    "step_schedule",
]
