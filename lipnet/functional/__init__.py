"""Pure functions of tensors: no state but constants, no modules, nothing imported from the rest of lipnet."""

from lipnet.functional.convolution import (
    PADDING_MODES,
    depth_to_space,
    jacobian_matrices,
    same_convolution,
    same_convolution_weight_gradient,
    space_to_depth,
)
from lipnet.functional.exponential import (
    apply_dense,
    contraction,
    dense_exponential,
    matrix_function,
    products_of_a_polynomial,
)
from lipnet.functional.forms import form_matrices
from lipnet.functional.frequency import frequency_response
from lipnet.functional.gain import polynomial_gain
from lipnet.functional.norm_bounds import (
    reshaped_filter_bound,
    reshaped_filters,
    reshaped_norm,
    spectral_norm_bound,
    symbol_bound,
)
from lipnet.functional.norm_estimates import jacobian_norm, power_iteration, start_vectors, top_vectors
from lipnet.functional.permutations import (
    channel_shuffle,
    channel_unshuffle,
    check_shuffle,
    shuffle_permutation,
)
from lipnet.functional.polynomial import skew_polynomial
from lipnet.functional.rounding import product_up, round_up, square_root_up
from lipnet.functional.series import (
    SERIES,
    chebyshev_coefficients,
    exponential_coefficients,
    monic_polynomial,
    taylor_coefficients,
)
from lipnet.functional.skew import skew_filter, transpose_filter
from lipnet.functional.sorting import sort_pairs
from lipnet.functional.spectral import apply_spectral, spectral_exponential

__all__ = [
    "PADDING_MODES",
    "SERIES",
    "apply_dense",
    "apply_spectral",
    "channel_shuffle",
    "channel_unshuffle",
    "chebyshev_coefficients",
    "check_shuffle",
    "contraction",
    "dense_exponential",
    "depth_to_space",
    "exponential_coefficients",
    "form_matrices",
    "frequency_response",
    "jacobian_matrices",
    "jacobian_norm",
    "matrix_function",
    "monic_polynomial",
    "polynomial_gain",
    "power_iteration",
    "product_up",
    "products_of_a_polynomial",
    "reshaped_filter_bound",
    "reshaped_filters",
    "reshaped_norm",
    "round_up",
    "same_convolution",
    "same_convolution_weight_gradient",
    "shuffle_permutation",
    "skew_filter",
    "skew_polynomial",
    "sort_pairs",
    "space_to_depth",
    "spectral_exponential",
    "spectral_norm_bound",
    "square_root_up",
    "start_vectors",
    "symbol_bound",
    "taylor_coefficients",
    "top_vectors",
    "transpose_filter",
]
