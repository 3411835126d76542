"""Defects of the layers in the frequency domain, and of the products that certify them."""

from __future__ import annotations

from lipnet.functional.contractions import contractions, norm_of_matrices
from lipnet.functional.orthogonal_matrices import _accretive_inverse, block_reflector, cayley, polar
from lipnet.functional.spectral_products import spectral_products_step
from tests.mutation.planting import Defect, edit

LAYERS = "tests/layers/test_frequency.py::"
MATRICES = "tests/functional/test_orthogonal_matrices.py::"
CAYLEY = "tests/layers/test_cayley.py::test_it_is_the_transform_of_the_convolution"
POLAR = "tests/layers/test_lot.py::test_it_is_the_polar_factor_of_the_convolution"
PROVED = LAYERS + "test_the_operands_in_float32_are_proved_to_be_contractions"

DEFECTS = [
    Defect(
        "Cayley: V^* V is missing where the channels differ",
        edit(cayley, "accretive + lower.mH @ lower", "accretive"),
        [
            MATRICES + "test_cayley_is_the_formula",
            "tests/layers/test_cayley.py::test_it_is_the_transform_of_the_convolution",
            "tests/layers/test_orthogonal_linear.py::test_sandwich_is_its_formula",
        ],
    ),
    Defect(
        "Cayley: the factor 2 of the lower block is missing",
        edit(cayley, "-2 * lower @ inverse", "-lower @ inverse"),
        [MATRICES + "test_cayley_is_the_formula"],
    ),
    Defect(
        "Cayley: the inverse of a matrix that is not normal as if it were",
        edit(_accretive_inverse, "    if unit:", "    if True:"),
        [MATRICES + "test_accretive_matrices_are_inverted"],
    ),
    Defect(
        "LOT: the start is not divided by its norm",
        edit(polar, "factor / size.sqrt(), gram / size", "factor * 4, gram * 16"),
        [MATRICES + "test_polar_is_a_contraction_after_any_number_of_steps"],
    ),
    Defect(
        "LOT: the first step's product is reused in all others",
        edit(polar, "if step:", "if False:"),
        [
            MATRICES + "test_polar_is_the_polar_factor",
            "tests/layers/test_lot.py::test_it_is_the_polar_factor_of_the_convolution",
        ],
    ),
    Defect(
        "BRO: the factor 2 of a reflection is missing",
        edit(block_reflector, "identity - 2 * rows.mH", "identity - rows.mH"),
        [MATRICES + "test_the_block_reflector_is_the_formula", LAYERS + "test_it_is_orthogonal_on_circular_maps"],
    ),
    Defect(
        "BRO: the damping does not depend on V",
        edit(block_reflector, "normalised = _normalised(matrices)", "normalised = matrices"),
        [MATRICES + "test_the_block_reflector_is_the_formula"],
    ),
    Defect(
        "contractions: rounded matrices count as orthogonal",
        edit(contractions, "factor = 1 - margin", "factor = 1.0\n    return matrices.to(dtype)"),
        [PROVED, "tests/functional/test_contractions.py::test_larger_matrices_are_divided_by_their_norm"],
    ),
    Defect(
        "contractions: the rounding of the proof is ignored, and any norm near 1 counts as 1",
        edit(norm_of_matrices, "(1 - rounding) * identity", "(1 + 1e-5) * identity"),
        ["tests/functional/test_contractions.py::test_the_bound_holds_and_is_tight"],
    ),
    Defect(
        "rounding: the size of the entries of the Fourier matrices is ignored",
        edit(spectral_products_step, "magnitude=magnitude", "magnitude=1e-3"),
        ["tests/functional/test_spectral_products.py::test_the_rounding_is_covered"],
    ),
]
