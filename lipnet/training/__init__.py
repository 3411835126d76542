"""Training with Lightning; certification needs nothing of it."""

from lipnet.training.checkpoint_io import WholeCheckpointIO
from lipnet.training.module import CertifiedClassifier, certified_accuracy_key
from lipnet.training.schedules import step_schedule

__all__ = ["CertifiedClassifier", "WholeCheckpointIO", "certified_accuracy_key", "step_schedule"]
