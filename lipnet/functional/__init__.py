"""Pure functions of tensors and other values: no modules, no state but caches, no imports from the rest of lipnet.

docs/notation.md defines the symbols (M, J, A(w), sigma, ...) and the letters of the shapes.
"""

from lipnet.functional.convolution import (
    PADDING_MODES,
    depth_to_space,
    same_convolution,
    space_to_depth,
    with_channels,
)
from lipnet.functional.gain import polynomial_gain
from lipnet.functional.norm_bounds import reshaped_filter_bound, spectral_norm_bound, symbol_bound
from lipnet.functional.permutations import channel_shuffle, channel_unshuffle, shuffle_permutation
from lipnet.functional.polynomial import skew_polynomial
from lipnet.functional.rounding import product_up, round_up, square_root_up
from lipnet.functional.series import chebyshev_coefficients, exponential_coefficients, taylor_coefficients
from lipnet.functional.skew import skew_filter
from lipnet.functional.sorting import sort_pairs

__all__ = [
    "PADDING_MODES",
    "channel_shuffle",
    "channel_unshuffle",
    "chebyshev_coefficients",
    "depth_to_space",
    "exponential_coefficients",
    "polynomial_gain",
    "product_up",
    "reshaped_filter_bound",
    "round_up",
    "same_convolution",
    "shuffle_permutation",
    "skew_filter",
    "skew_polynomial",
    "sort_pairs",
    "space_to_depth",
    "spectral_norm_bound",
    "square_root_up",
    "symbol_bound",
    "taylor_coefficients",
    "with_channels",
]
