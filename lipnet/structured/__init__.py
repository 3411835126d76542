"""Structured matrices: orthogonal products of blocks and shuffles, additive structures, and adapters made of them."""

from lipnet.structured.additive import AdditiveUpdate, Kronecker, LowRank
from lipnet.structured.blocks import Mixing
from lipnet.structured.displacement import Circulant, LowDisplacementRank, SkewCirculant, Toeplitz
from lipnet.structured.orthogonal import StructuredOrthogonal, boft, gsoft, oft
from lipnet.structured.orthogonal_map import OrthogonalMap
from lipnet.structured.updates import OrthogonalUpdate, StackedUpdate, WeightUpdate

__all__ = [
    "AdditiveUpdate",
    "Circulant",
    "Kronecker",
    "LowDisplacementRank",
    "LowRank",
    "Mixing",
    "OrthogonalMap",
    "OrthogonalUpdate",
    "SkewCirculant",
    "StackedUpdate",
    "StructuredOrthogonal",
    "Toeplitz",
    "WeightUpdate",
    "boft",
    "gsoft",
    "oft",
]
