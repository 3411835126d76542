"""Networks made of lipnet's layers, and the checkpoints that describe them."""

from lipnet.models.build import build_model
from lipnet.models.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from lipnet.models.lipconvnet import LipConvNet

__all__ = ["Checkpoint", "CheckpointError", "LipConvNet", "build_model", "load_checkpoint", "save_checkpoint"]
