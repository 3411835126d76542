"""Training with Lightning; certification needs nothing of it."""

from lipnet.training.averaging import ExponentialMovingAverage
from lipnet.training.checkpoint_io import WholeCheckpointIO
from lipnet.training.divergence import DivergenceGuard
from lipnet.training.last_checkpoint import LastCheckpoint, TimeIsUp
from lipnet.training.losses import CertificateRegularization, LogitAnnealing, MulticlassHinge, OffsetCrossEntropy
from lipnet.training.module import CertifiedClassifier, certified_accuracy_key
from lipnet.training.requeue import SafeRequeue
from lipnet.training.resumption import ExactResumption
from lipnet.training.run_record import RunRecord
from lipnet.training.schedules import CosineWithWarmup, OneCycle, PerStepSchedule, step_schedule
from lipnet.training.timed_schedules import TimedOneCycle, TimedSchedule

__all__ = [
    "CertificateRegularization",
    "CertifiedClassifier",
    "CosineWithWarmup",
    "DivergenceGuard",
    "ExactResumption",
    "ExponentialMovingAverage",
    "LastCheckpoint",
    "LogitAnnealing",
    "MulticlassHinge",
    "OffsetCrossEntropy",
    "OneCycle",
    "PerStepSchedule",
    "RunRecord",
    "SafeRequeue",
    "TimeIsUp",
    "TimedOneCycle",
    "TimedSchedule",
    "WholeCheckpointIO",
    "certified_accuracy_key",
    "step_schedule",
]
