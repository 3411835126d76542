"""Rounding error bounds of a network in float64, step by step: the building blocks of ``rounding_step``.

A layer's ``rounding_step(signal, shape)`` receives a `Signal`, which bounds the layer's input, and returns a `Step`,
which bounds what the layer does to it. Most layers are one of four kinds, or a chain of them by `Step.then`:

=================  =====================================================================
`exact`            moves, sorts, drops or negates entries (permutations, MaxMin, ReLU)
`elementwise`      a function of each entry with a known relative error (scaling, abs)
`addition`         adds a constant to each pixel (a bias)
`products`         y = A x + b with dot products (linear layers, convolutions)
=================  =====================================================================

`absolute_norm`, `absolute_filter_norm` and `euclidean_norm` compute the norms that these need; `accumulated` and `up`
are for layers of another kind.

The analysis: every entry of a result is a sum of n products. Its computed value differs from the exact one by at most
gamma_n sum |a_i| |b_i|, gamma_n = n u / (1 - n u) with the unit roundoff u = 2^-53, for any order of the summands, with
or without fused operations (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). For a matrix
A and a vector x, this is an error of norm gamma_n || |A| || ||x||. A result that underflows, or a subnormal operand
that counts as 0, adds at most 2^-1022, so that flushing to zero is covered. Winograd and FFT convolutions and TF32 are
not covered: they compute other sums, or round more.

The bounds are floats themselves, computed by sums, products and roots of numbers that are not negative. Each operation
loses at most one unit, and `up` covers thousands of operations.
"""

from __future__ import annotations

from math import inf, isnan, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from lipnet.functional.rounding import to_float64

UNIT = 2.0**-53
# The smallest normal number: anything below it may count as 0.
TINY = 2.0**-1022
# Error of an elementary function (sin, exp, ...) in roundings u: assumed to be at most 4 units in the last place, of at
# most 2 u each.
ELEMENTARY = 4 * 2
# Power iteration in `absolute_norm`: largest number of steps, and the ratio of upper to lower bound at which it stops.
_POWER_STEPS = 13
_CLOSE_ENOUGH = 1 + 1e-6
# Squares of smaller numbers may underflow, so that their sum is far below the exact one.
_SMALLEST_SQUARED = 2.0**-400


class Signal(NamedTuple):
    """Bounds on a tensor inside a network, valid for all images with pixels in [0, 1].

    Attributes:
        shape: of one sample.
        norm: an upper bound on the Euclidean norm of the exact values.
        error: an upper bound on the distance of the computed values from the exact ones.
        pixels: whether all exact values are known to lie in [0, 1].
    """

    shape: tuple[int, ...]
    norm: float
    error: float = 0.0
    pixels: bool = False

    @property
    def computed(self) -> float:
        """Return an upper bound on the norm of the computed values."""
        return up(self.norm + self.error)

    @property
    def entries(self) -> int:
        """Return the number of entries of one sample."""
        return prod(self.shape)

    def after(self, step: Step, shape: tuple[int, ...]) -> Signal:
        """Return the bounds on the results of a step, which have this shape."""
        return Signal(shape, step.norm, up(step.gain * self.error + step.error))


class Step(NamedTuple):
    """One step of a network: a function and the accuracy of its evaluation.

    Attributes:
        norm: an upper bound on the norm of the exact result for exact inputs.
        gain: an upper bound on the Lipschitz constant of the exact function.
        error: an upper bound on the distance between the computed result and the exact function, both for the
            *computed* inputs. It is the error that this step adds to that of its inputs.
    """

    norm: float
    gain: float = 1.0
    error: float = 0.0

    def then(self, following: Step) -> Step:
        """Combine this step and the following one, which takes its results, into one step."""
        error = following.gain * self.error + following.error
        return Step(following.norm, up(self.gain * following.gain), up(error))


def exact(signal: Signal, gain: float = 1.0) -> Step:
    """Return the step of a function with Lipschitz constant ``gain`` that rounds nothing, such as a permutation."""
    return Step(up(gain * signal.norm), gain)


def elementwise(signal: Signal, roundings: int, gain: float = 1.0) -> Step:
    """Return the step of an elementwise function f with f(0) = 0 and a relative error of ``roundings`` u.

    ``gain`` is the Lipschitz constant of f.
    """
    error = accumulated(roundings) * gain * signal.computed + underflow(signal.entries, roundings, gain)
    return Step(up(gain * signal.norm), gain, up(error))


def addition(signal: Signal, constant: Tensor | None, pixels: int) -> Step:
    """Return the step that adds a constant (C,) to each of ``pixels`` pixels; None adds and rounds nothing."""
    if constant is None:
        return exact(signal)
    size = euclidean_norm(constant) * sqrt(pixels)
    error = UNIT * (signal.computed + size) + underflow(signal.entries, 1, 0.0)
    return Step(up(signal.norm + size), 1.0, up(error))


def products(
    signal: Signal, *, length: int, magnitude: float, gain: float, outputs: int, bias_norm: float = 0.0
) -> Step:
    """Return the step y = A x + b, where every entry is a sum of products.

    Args:
        signal: x.
        length: number of products in the sum of an entry.
        magnitude: an upper bound on || |A| ||, from `absolute_norm` or `absolute_filter_norm`.
        gain: an upper bound on ||A||.
        outputs: number of entries of y.
        bias_norm: an upper bound on ||b||, with b repeated for every entry that it is added to.

    Example:
        >>> weight, bias = torch.tensor([[3.0, -4.0]]), torch.tensor([1.0])
        >>> magnitude, bias_norm = absolute_norm(weight), euclidean_norm(bias)
        >>> x = Signal(shape=(2,), norm=2.0)
        >>> step = products(x, length=2, magnitude=magnitude, gain=5.0, outputs=1, bias_norm=bias_norm)
        >>> round(step.norm, 9), step.error < 1e-14
        (11.0, True)
    """
    computed = signal.computed
    error = accumulated(length + 1) * (magnitude * computed + bias_norm)
    error += underflow(max(outputs, signal.entries), length + 1, computed + magnitude)
    return Step(up(gain * signal.norm + bias_norm), gain, up(error))


def euclidean_norm(values: Tensor) -> float:
    """Bound the Euclidean norm of all entries of a tensor from above; infinity if an entry is not finite."""
    exact = to_float64(values.detach())
    norm = float(exact.norm())
    if norm < _SMALLEST_SQUARED and exact.numel():
        norm = up(float(exact.abs().max()) * sqrt(exact.numel()))
    norm *= 1 + (exact.numel() + 8) * 2 * UNIT
    return inf if isnan(norm) else norm


def absolute_norm(matrices: Tensor) -> float:
    """Bound the largest || |A| || among matrices A (..., m, n) from above; |A| is the matrix of absolute values.

    For a matrix B without negative entries and any positive vector v, ||B||^2 <= max_i (B^T B v)_i / v_i (Collatz and
    Wielandt). v comes from a few steps of power iteration, which make the two sides nearly equal.

    Example:
        >>> round(absolute_norm(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), 9)
        2.0
    """
    magnitudes = to_float64(matrices.detach()).abs().reshape(-1, *matrices.shape[-2:])
    if magnitudes.numel() == 0:
        return 0.0
    if not bool(magnitudes.isfinite().all()):
        return inf
    if (greatest := float(magnitudes.max())) < _SMALLEST_SQUARED:
        return up(greatest * sqrt(prod(magnitudes.shape[-2:])))
    vectors = torch.ones_like(magnitudes[:, :1, :]).mT
    for _ in range(_POWER_STEPS):
        images = magnitudes.mT @ (magnitudes @ vectors)
        ratios = images / vectors
        # The smallest and the largest ratio enclose the squared norm.
        if bool((ratios.amax(dim=1) <= _CLOSE_ENOUGH * ratios.amin(dim=1)).all()):
            break
        largest = images.amax(dim=1, keepdim=True)
        # Every entry of v must be positive. The vector of a zero matrix stays 1.
        vectors = torch.where(largest > 0, images / largest, 1.0).clamp_min(1e-6)
    largest_ratio = float(ratios.max())
    return up(sqrt(largest_ratio) * (1 + sum(magnitudes.shape[-2:]) * 4 * UNIT)) if largest_ratio < inf else inf


def absolute_filter_norm(weight: Tensor, groups: int = 1) -> float:
    """Bound || |J| || from above for a convolution J with this filter, whatever its padding, stride and dilation.

    Padding is zero or circular. |J| is the convolution with the filter |L|. The moduli of its frequency response are,
    entry by entry, at most sum_k |L_k|, so || |J| || is at most the norm of that matrix. On feature maps without
    borders, frequency 0 attains it.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.
    """
    summed = to_float64(weight.detach()).abs().flatten(2).sum(dim=2)
    return up(absolute_norm(summed.view(groups, -1, summed.shape[1])))


def accumulated(roundings: int) -> float:
    """Compute gamma_n = n u / (1 - n u), the relative error of n roundings in a row.

    Raises:
        ValueError: for 2^52 roundings or more.
    """
    share = roundings * UNIT
    if share >= 0.5:
        raise ValueError(f"roundings must be below 2^52 to have a useful bound, got {roundings}")
    return share / (1 - share)


def up(value: float) -> float:
    """Enlarge a computed bound to cover thousands of roundings and underflows; NaN gives infinity.

    Example:
        >>> up(1.0) - 1 < 1e-12, up(float("nan"))
        (True, inf)
    """
    return inf if isnan(value) else value * (1 + 2**-40) + 2.0**-1000


def underflow(entries: int, operations: int, magnitude: float) -> float:
    """Bound the error of subnormal results and operands that are flushed to 0.

    Args:
        entries: number of results.
        operations: number of operations for each result.
        magnitude: an upper bound on the operands that multiply a flushed one.
    """
    return TINY * sqrt(entries) * operations * (2 + magnitude)
