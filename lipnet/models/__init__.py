"""Networks made of lipnet's layers, and the checkpoints that describe them."""

from lipnet.models.adapted import AdaptedConv, AdaptedHead, load_base, merge_maps
from lipnet.models.archive import CheckpointError
from lipnet.models.build import build_model
from lipnet.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lipnet.models.hub import push_to_hub
from lipnet.models.lipconvnet import LipConvNet
from lipnet.models.lipnext import LipNeXt
from lipnet.models.liresnet import LiResNet
from lipnet.models.pretrained import PRETRAINED, load_pretrained, save_pretrained
from lipnet.models.resnet9 import ResNet9

__all__ = [
    "PRETRAINED",
    "AdaptedConv",
    "AdaptedHead",
    "Checkpoint",
    "CheckpointError",
    "LiResNet",
    "LipConvNet",
    "LipNeXt",
    "ResNet9",
    "build_model",
    "load_base",
    "load_checkpoint",
    "load_pretrained",
    "merge_maps",
    "push_to_hub",
    "save_checkpoint",
    "save_pretrained",
]
