"""Group-and-shuffle (GS) matrices: the classes, the projection onto them, their orthogonal members, their density."""

from lipnet.structured.gs.density import factors_needed, is_dense, parameter_counts
from lipnet.structured.gs.families import butterfly, group_and_shuffle, monarch
from lipnet.structured.gs.higher_order import HigherOrderGS
from lipnet.structured.gs.matrix import GSMatrix
from lipnet.structured.gs.permutations import butterfly_permutation
from lipnet.structured.gs.projection import orthogonal_factors, project_gs

__all__ = [
    "GSMatrix",
    "HigherOrderGS",
    "butterfly",
    "butterfly_permutation",
    "factors_needed",
    "group_and_shuffle",
    "is_dense",
    "monarch",
    "orthogonal_factors",
    "parameter_counts",
    "project_gs",
]
