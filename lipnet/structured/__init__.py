"""Structured matrices: products of block-diagonal factors with permutations between them."""

from lipnet.structured.gs import (
    GSMatrix,
    HigherOrderGS,
    butterfly,
    butterfly_permutation,
    factors_needed,
    group_and_shuffle,
    is_dense,
    monarch,
    orthogonal_factors,
    parameter_counts,
    project_gs,
)

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
