"""Orthogonal layers and 1-Lipschitz activations, used like those of ``torch.nn``."""

from lipnet.layers.activations import MaxMin, MaxMinPermuted
from lipnet.layers.aoc import AOC
from lipnet.layers.aol import AOL, AOLLinear
from lipnet.layers.base import LipschitzModule
from lipnet.layers.bcop import BCOP
from lipnet.layers.cholesky import Cholesky
from lipnet.layers.conv1d import SOC1d, SOCTranspose1d
from lipnet.layers.cpl import CPL
from lipnet.layers.export import export
from lipnet.layers.gssoc import GSSOC
from lipnet.layers.heads import NormalizedLinear
from lipnet.layers.householder import Householder, HouseholderOrder2
from lipnet.layers.linear import SOCLinear
from lipnet.layers.normalize import Normalize
from lipnet.layers.pooling import NormPool2d
from lipnet.layers.residual import Residual
from lipnet.layers.sandwich import Sandwich
from lipnet.layers.shuffle import ChannelShuffle
from lipnet.layers.sll import SLL
from lipnet.layers.soc import SOC
from lipnet.layers.transpose import SOCTranspose

__all__ = [
    "AOC",
    "AOL",
    "BCOP",
    "CPL",
    "GSSOC",
    "SLL",
    "SOC",
    "AOLLinear",
    "ChannelShuffle",
    "Cholesky",
    "Householder",
    "HouseholderOrder2",
    "LipschitzModule",
    "MaxMin",
    "MaxMinPermuted",
    "NormPool2d",
    "Normalize",
    "NormalizedLinear",
    "Residual",
    "SOC1d",
    "SOCLinear",
    "SOCTranspose",
    "SOCTranspose1d",
    "Sandwich",
    "export",
]
