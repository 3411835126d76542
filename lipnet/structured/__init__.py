"""Structured matrices: GS-matrices, orthogonal products of blocks and shuffles, additive structures."""

from lipnet.structured.additive import AdditiveUpdate, Kronecker, LowRank
from lipnet.structured.blocks import Mixing, ShufflePower
from lipnet.structured.bottleneck import Bottleneck, Dense
from lipnet.structured.displacement import Circulant, LowDisplacementRank, SkewCirculant, Toeplitz
from lipnet.structured.gs.density import factors_needed, is_dense, parameter_counts
from lipnet.structured.gs.families import butterfly, group_and_shuffle, monarch
from lipnet.structured.gs.higher_order import HigherOrderGS
from lipnet.structured.gs.matrix import GSMatrix
from lipnet.structured.gs.permutations import butterfly_permutation
from lipnet.structured.gs.projection import orthogonal_factors, project_gs
from lipnet.structured.orthogonal import StructuredOrthogonal, boft, gsoft, oft
from lipnet.structured.orthogonal_map import OrthogonalMap
from lipnet.structured.projection import project_circulant, project_kronecker, project_toeplitz
from lipnet.structured.updates import OrthogonalUpdate, StackedUpdate, WeightUpdate

__all__ = [
    "AdditiveUpdate",
    "Bottleneck",
    "Circulant",
    "Dense",
    "GSMatrix",
    "HigherOrderGS",
    "Kronecker",
    "LowDisplacementRank",
    "LowRank",
    "Mixing",
    "OrthogonalMap",
    "OrthogonalUpdate",
    "ShufflePower",
    "SkewCirculant",
    "StackedUpdate",
    "StructuredOrthogonal",
    "Toeplitz",
    "WeightUpdate",
    "boft",
    "butterfly",
    "butterfly_permutation",
    "factors_needed",
    "group_and_shuffle",
    "gsoft",
    "is_dense",
    "monarch",
    "oft",
    "orthogonal_factors",
    "parameter_counts",
    "project_circulant",
    "project_gs",
    "project_kronecker",
    "project_toeplitz",
]
