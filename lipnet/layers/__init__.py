"""Layers with a bound on their Lipschitz constant, used like their counterparts in ``torch.nn``."""

from lipnet.layers.activations import BetaAbs, MaxMin, MaxMinPermuted
from lipnet.layers.aoc import AOC
from lipnet.layers.aol import AOL, AOLLinear
from lipnet.layers.base import LipschitzModule
from lipnet.layers.bcop import BCOP
from lipnet.layers.bro import BRO, BROLinear
from lipnet.layers.cayley import Cayley, CayleyLinear
from lipnet.layers.centering import Centering
from lipnet.layers.cholesky import Cholesky
from lipnet.layers.conv1d import SOC1d, SOCTranspose1d
from lipnet.layers.cpl import CPL
from lipnet.layers.export import export
from lipnet.layers.group_and_shuffle import GroupAndShuffle
from lipnet.layers.gssoc import GSSOC
from lipnet.layers.heads import NormalizedLinear
from lipnet.layers.householder import Householder, HouseholderOrder2
from lipnet.layers.linear import SOCLinear
from lipnet.layers.lires import LiRes
from lipnet.layers.lot import LOT
from lipnet.layers.mirror import MirrorAverage
from lipnet.layers.normalize import Normalize
from lipnet.layers.orthogonal_mixing import OrthogonalMixing
from lipnet.layers.patch_rotation import PatchEmbedding
from lipnet.layers.pooling import NormPool2d
from lipnet.layers.position_code import PositionCode
from lipnet.layers.residual import Residual
from lipnet.layers.sandwich import Sandwich
from lipnet.layers.scaled_conv import ScaledConv2d
from lipnet.layers.shuffle import ChannelShuffle
from lipnet.layers.sll import SLL
from lipnet.layers.soc import SOC
from lipnet.layers.spatial_shift import SpatialMixing, SpatialShift
from lipnet.layers.transpose import SOCTranspose

__all__ = [
    "AOC",
    "AOL",
    "BCOP",
    "BRO",
    "CPL",
    "GSSOC",
    "LOT",
    "SLL",
    "SOC",
    "AOLLinear",
    "BROLinear",
    "BetaAbs",
    "Cayley",
    "CayleyLinear",
    "Centering",
    "ChannelShuffle",
    "Cholesky",
    "GroupAndShuffle",
    "Householder",
    "HouseholderOrder2",
    "LiRes",
    "LipschitzModule",
    "MaxMin",
    "MaxMinPermuted",
    "MirrorAverage",
    "NormPool2d",
    "Normalize",
    "NormalizedLinear",
    "OrthogonalMixing",
    "PatchEmbedding",
    "PositionCode",
    "Residual",
    "SOC1d",
    "SOCLinear",
    "SOCTranspose",
    "SOCTranspose1d",
    "Sandwich",
    "ScaledConv2d",
    "SpatialMixing",
    "SpatialShift",
    "export",
]
