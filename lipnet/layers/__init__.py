"""Orthogonal layers and 1-Lipschitz activations, used like those of ``torch.nn``."""

from lipnet.layers.activations import MaxMin, MaxMinPermuted
from lipnet.layers.conv1d import SOC1d, SOCTranspose1d
from lipnet.layers.exporting import export
from lipnet.layers.gssoc import GSSOC
from lipnet.layers.linear import SOCLinear
from lipnet.layers.normalize import Normalize
from lipnet.layers.shuffle import ChannelShuffle
from lipnet.layers.soc import SOC
from lipnet.layers.transpose import SOCTranspose

__all__ = [
    "GSSOC",
    "SOC",
    "ChannelShuffle",
    "MaxMin",
    "MaxMinPermuted",
    "Normalize",
    "SOC1d",
    "SOCLinear",
    "SOCTranspose",
    "SOCTranspose1d",
    "export",
]
