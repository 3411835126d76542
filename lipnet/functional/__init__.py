"""Pure functions of tensors: no state, no modules, nothing imported from the rest of lipnet."""

from lipnet.functional.convolution import (
    PADDING_MODES,
    same_convolution,
    same_convolution_weight_gradient,
    space_to_depth,
)
from lipnet.functional.exponential import taylor_coefficients, taylor_exponential
from lipnet.functional.gain import polynomial_gain
from lipnet.functional.norms import (
    power_iteration,
    reshaped_filter_bound,
    reshaped_filters,
    reshaped_norm,
    symbol_bound,
)
from lipnet.functional.permutations import (
    channel_shuffle,
    channel_unshuffle,
    check_shuffle,
    shuffle_permutation,
)
from lipnet.functional.polynomial import convolution_polynomial
from lipnet.functional.rounding import product_up, round_up, square_root_up
from lipnet.functional.skew import skew_filter, transpose_filter
from lipnet.functional.sorting import sort_pairs

__all__ = [
    "PADDING_MODES",
    "channel_shuffle",
    "channel_unshuffle",
    "check_shuffle",
    "convolution_polynomial",
    "polynomial_gain",
    "power_iteration",
    "product_up",
    "reshaped_filter_bound",
    "reshaped_filters",
    "reshaped_norm",
    "round_up",
    "same_convolution",
    "same_convolution_weight_gradient",
    "shuffle_permutation",
    "skew_filter",
    "sort_pairs",
    "space_to_depth",
    "square_root_up",
    "symbol_bound",
    "taylor_coefficients",
    "taylor_exponential",
    "transpose_filter",
]
