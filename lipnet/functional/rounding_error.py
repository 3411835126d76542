"""How far rounding can carry a network in float64 from what it would compute in exact arithmetic, step by step.

Every operation of a step is a sum of products, whose computed value differs from the exact one by at most
gamma_n sum |a_i| |b_i|, gamma_n = n u / (1 - n u) with the unit u = 2^-53, for any order of the n summands, with or
without fused operations (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). For a matrix A
and a vector x that is an error of norm gamma_n || |A| || ||x||. Results that underflow, and operands that are taken for
0 because they are subnormal, add at most 2^-1022 for each of them, so that flushing to zero is covered.

The bounds are floats themselves. They are sums, products and roots of numbers that are not negative, so that each of
their own operations loses a unit at most; `up` makes room for thousands of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.functional.gain import polynomial_gain

UNIT = 2.0**-53
# The smallest normal number: what is below it may be taken for 0.
TINY = 2.0**-1022
# Elementary functions are taken to be within so many units in the last place, which are two u each.
ELEMENTARY = 4 * 2
_STEPS_OF_A_GUESS = 12


class Signal(NamedTuple):
    """What is known of a tensor on its way through a network, uniformly over all images with pixels in [0, 1].

    Attributes:
        shape: of one sample.
        norm: an upper bound on the Euclidean norm of the exact values.
        error: an upper bound on the distance of the computed values from them.
        pixels: whether all exact values are known to lie in [0, 1].
    """

    shape: tuple[int, ...]
    norm: float
    error: float = 0.0
    pixels: bool = False

    @property
    def computed(self) -> float:
        """An upper bound on the norm of the computed values."""
        return up(self.norm + self.error)

    @property
    def entries(self) -> int:
        return prod(self.shape)

    def after(self, step: Step, shape: tuple[int, ...]) -> Signal:
        """What is known behind a step with results of this shape."""
        return Signal(shape, step.norm, up(step.gain * self.error + step.error))


class Step(NamedTuple):
    """One step of a network: a function, and how exactly it is computed.

    Attributes:
        norm: an upper bound on the norm of the exact result for exact inputs.
        gain: an upper bound on the Lipschitz constant of the exact function.
        error: an upper bound on the distance of what is computed for the *computed* inputs from the exact function of
            them: what this step adds to the errors of those before it.
    """

    norm: float
    gain: float = 1.0
    error: float = 0.0

    def then(self, following: Step) -> Step:
        """This step and another one that takes its results, as one."""
        error = following.gain * self.error + following.error
        return Step(following.norm, up(self.gain * following.gain), up(error))


def up(value: float) -> float:
    """A little more than a computed bound, more than thousands of roundings and underflows took away; NaN is infinity.

    Example:
        >>> up(1.0) - 1 < 1e-12, up(float("nan"))
        (True, inf)
    """
    return inf if isnan(value) else value * (1 + 2**-40) + 2.0**-1000


def accumulated(roundings: int) -> float:
    """gamma_n = n u / (1 - n u).

    Raises:
        ValueError: for sums of 2^52 and more terms.
    """
    share = roundings * UNIT
    if share >= 0.5:
        raise ValueError(f"sums of {roundings} terms have no useful bound on their rounding")
    return share / (1 - share)


def euclidean_norm(values: Tensor) -> float:
    """An upper bound on the Euclidean norm of all entries, infinite if one is not finite."""
    norm = float(values.detach().double().norm()) * (1 + (values.numel() + 8) * 2 * UNIT)
    return inf if isnan(norm) else norm


def absolute_norm(matrices: Tensor) -> float:
    """An upper bound on the largest || |A| || among matrices A (..., m, n): of the matrix of absolute values.

    For a matrix B without negative entries and any positive vector v, ||B||^2 <= max_i (B^T B v)_i / v_i (Collatz and
    Wielandt); v comes from a few steps of power iteration, which make that nearly equal.

    Example:
        >>> round(absolute_norm(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), 9)
        2.0
    """
    magnitudes = matrices.detach().double().abs().reshape(-1, *matrices.shape[-2:])
    if magnitudes.numel() == 0:
        return 0.0
    if not bool(magnitudes.isfinite().all()):
        return inf
    vectors = torch.ones_like(magnitudes[:, :1, :]).mT
    for _ in range(_STEPS_OF_A_GUESS):
        images = magnitudes.mT @ (magnitudes @ vectors)
        largest = images.amax(dim=1, keepdim=True)
        # Positive, whatever the matrix; where it is zero, so is the image below.
        vectors = torch.where(largest > 0, images / largest, 1.0).clamp_min(1e-6)
    ratios = (magnitudes.mT @ (magnitudes @ vectors)) / vectors
    largest_ratio = float(ratios.max())
    return up(sqrt(largest_ratio) * (1 + sum(magnitudes.shape[-2:]) * 4 * UNIT)) if largest_ratio < inf else inf


def absolute_filter_norm(weight: Tensor, groups: int = 1) -> float:
    """An upper bound on || |J| || for a convolution J with this filter, of any stride, dilation and padding by zeros or
    wrapped pixels.

    |J| has the filter |L|, without negative entries. Its frequency response at w is at most sum_k |L_k| in each entry,
    and so is its norm, which frequency 0 attains on maps without borders.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.
    """
    summed = weight.detach().double().abs().flatten(2).sum(dim=2)
    return up(absolute_norm(summed.view(groups, -1, summed.shape[1])))


def exact(signal: Signal, gain: float = 1.0) -> Step:
    """A step that moves, sorts or drops entries and so rounds nothing."""
    return Step(up(gain * signal.norm), gain)


def elementwise(signal: Signal, roundings: int, gain: float = 1.0) -> Step:
    """A function of every entry, 0 at 0, whose results have a relative error of so many units."""
    made = accumulated(roundings) * gain * signal.computed + _underflow(signal.entries, roundings, gain)
    return Step(up(gain * signal.norm), gain, up(made))


def addition(signal: Signal, constant: Tensor | None, pixels: int) -> Step:
    """Adding a constant (C,) to each of so many pixels; None adds nothing."""
    if constant is None:
        return exact(signal)
    size = euclidean_norm(constant) * sqrt(pixels)
    made = UNIT * (signal.computed + size) + _underflow(signal.entries, 1, 0.0)
    return Step(up(signal.norm + size), 1.0, up(made))


def products(
    signal: Signal, *, length: int, magnitude: float, gain: float, outputs: int, bias_norm: float = 0.0
) -> Step:
    """y = A x + b, every entry being a sum of products.

    Args:
        signal: x.
        length: products that an entry sums.
        magnitude: an upper bound on || |A| ||.
        gain: an upper bound on ||A||.
        outputs: entries of y.
        bias_norm: an upper bound on ||b||, of all the entries that it is added to.
    """
    computed = signal.computed
    made = accumulated(length + 1) * (magnitude * computed + bias_norm)
    made += _underflow(max(outputs, signal.entries), length + 1, computed + magnitude)
    return Step(up(gain * signal.norm + bias_norm), gain, up(made))


def horner_error(
    coefficients: Sequence[float], *, norm: float, magnitude: float, length: int, size: float, entries: int
) -> float:
    """A bound on the error of p(J) x by Horner's rule, s <- J s + c_k x from the leading coefficient down.

    The error of each step, of the product (gamma_n || |J| || ||s||), of the multiplication by c_k and of the addition,
    is carried on by the products that follow, each at most ||J|| times. The exact s are polynomials of J themselves,
    whose norms `polynomial_gain` bounds.

    Args:
        coefficients: c_0, ..., c_n.
        norm: an upper bound on ||J||, J skew.
        magnitude: an upper bound on || |J| ||.
        length: products that an entry of J s sums.
        size: an upper bound on ||x||, x being exactly what is computed with.
        entries: of x.
    """
    leading = coefficients[-1]
    state, error = abs(leading) * size, 0.0 if leading == 1 else UNIT * abs(leading) * size
    for power in reversed(range(len(coefficients) - 1)):
        term = abs(coefficients[power]) * size
        computed = state + error
        made = accumulated(length) * magnitude * computed + _underflow(entries, length + 2, computed + magnitude + term)
        added = UNIT * (norm * computed + made) + accumulated(2) * term
        error = norm * error + made + added
        state = polynomial_gain(coefficients[power:], norm) * size
    return up(error)


def _underflow(entries: int, operations: int, magnitude: float) -> float:
    """What results that are taken for 0, or operands that are multiplied by up to a magnitude, leave out."""
    return TINY * sqrt(entries) * operations * (2 + magnitude)
