"""Training with Lightning: module, losses, schedules and callbacks. Certification does not need it."""

from lipnet.training.averaging import ExponentialMovingAverage
from lipnet.training.batch_warmup import BatchWarmup
from lipnet.training.checkpoint_io import WholeCheckpointIO
from lipnet.training.distillation import Distillation
from lipnet.training.divergence import DivergenceGuard
from lipnet.training.emma import EMMA, AnnealedEMMA
from lipnet.training.equal_processes import EqualProcesses
from lipnet.training.last_checkpoint import LastCheckpoint, TimeIsUp
from lipnet.training.losses import (
    CertificateRegularization,
    LipschitzLoss,
    LogitAnnealing,
    MulticlassHinge,
    OffsetCrossEntropy,
)
from lipnet.training.module import CertifiedClassifier, Prediction, certified_accuracy_key
from lipnet.training.muon import KernelMuon, Muon
from lipnet.training.optimizers import CombinedOptimizer, Lookahead, ModuleOptimizer
from lipnet.training.patch_fitting import FitPatchRotation
from lipnet.training.progress import EpochLog, ModelSummary, ProgressBar, ResumableCSVLogger
from lipnet.training.requeue import RequeueRequests, SafeRequeue
from lipnet.training.resumption import ExactResumption
from lipnet.training.riemannian import RiemannianAdam
from lipnet.training.run_record import RunRecord
from lipnet.training.schedules import CosineWithWarmup, OneCycle, PerStepSchedule, step_schedule

__all__ = ["CertifiedClassifier", "Prediction", "certified_accuracy_key"]
__all__ += ["EMMA", "AnnealedEMMA", "CertificateRegularization", "Distillation"]
__all__ += ["LipschitzLoss", "LogitAnnealing", "MulticlassHinge", "OffsetCrossEntropy"]
__all__ += ["CombinedOptimizer", "KernelMuon", "Lookahead", "ModuleOptimizer", "Muon", "RiemannianAdam"]
__all__ += ["CosineWithWarmup", "OneCycle", "PerStepSchedule", "step_schedule"]
__all__ += [
    "BatchWarmup",
    "DivergenceGuard",
    "EqualProcesses",
    "ExactResumption",
    "ExponentialMovingAverage",
    "FitPatchRotation",
    "LastCheckpoint",
    "RequeueRequests",
    "SafeRequeue",
    "TimeIsUp",
]
__all__ += ["EpochLog", "ModelSummary", "ProgressBar", "ResumableCSVLogger", "RunRecord", "WholeCheckpointIO"]
