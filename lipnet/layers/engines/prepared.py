"""The prepared weight: the scaled filter, its series, and the bounds of both, computed once per weight."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from lipnet.functional import polynomial_gain, reshaped_filter_bound, symbol_bound
from lipnet.functional.frequency import frequency_response, room_beyond_grid
from lipnet.functional.series import (
    LARGEST_DEGREE,
    SERIES,
    chebyshev_coefficients,
    exponential_coefficients,
    monic_polynomial,
    taylor_coefficients,
)
from lipnet.layers.cache import version_of

# (largest number of channels in a group, grid of the symbol bound). Wider groups get only the cheaper, looser bound.
_GRIDS = ((64, 24), (128, 16), (256, 8), (512, 6))
# Largest number of channels in a group for which `expected_norm` computes eigenvalues at all frequencies: a tenth of a
# second for four groups.
_NARROW = 16


class Series(NamedTuple):
    """A polynomial that replaces exp(J): sum_k coefficients[k] (factor J)^k, with leading coefficient 1."""

    factor: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class PreparedWeight:
    """The values that evaluation computes from a weight: the scaled filter, cached constants, and certified bounds.

    Evaluation itself needs no bound. Each bound is proven when it is first read.

    Attributes:
        vectors: vectors at which the scaling evaluates its norm, float64.
        filter: scaled skew filter L of the active groups, float64.
        factored: the filter times the series' factor, in the layer's dtype.
        series: polynomial that replaces exp.
        interval: largest ||J|| for which the series is made; no guarantee uses it.
        finite: whether all entries of the filter are finite.
        constants: cache of `constant`. Never write into them.
    """

    vectors: list[Tensor]
    filter: Tensor
    factored: Tensor
    series: Series
    interval: float
    finite: bool
    constants: dict[Hashable, Tensor | None] = field(default_factory=dict)
    _versions: list[tuple[Tensor, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._versions.extend((each, version_of(each)) for each in (self.filter, self.factored))

    def written(self) -> bool:
        """Return whether a filter or a constant was changed in place, so that the bounds may not hold any more."""
        return any(version_of(tensor) != version for tensor, version in list(self._versions))

    @cached_property
    def norm(self) -> float:
        """Return an upper bound on ||J|| for ``filter``."""
        return norm_bound(self.filter)

    @cached_property
    def factored_norm(self) -> float:
        """Return an upper bound on ||J|| for ``factored``."""
        # If rounding changes the filter by a Frobenius norm e, it changes J by a norm of at most sqrt(kh kw) e.
        moved = float((self.factored.double() - self.filter * self.series.factor).norm())
        return (self.norm * self.series.factor + moved * sqrt(prod(self.filter.shape[-2:]))) * (1 + 1e-12)

    @cached_property
    def gain(self) -> float:
        """Return an upper bound on the norm of the series and at least 1; infinity if the weight is not finite."""
        gain = polynomial_gain(self.series.coefficients, self.factored_norm) if self.finite else inf
        return max(gain, 1.0) if isfinite(gain) else inf

    # Compiling what runs once per weight would take minutes (as in `lipnet.layers.cache.WeightCache.get`).
    @_disable_dynamo
    def constant(self, key: Hashable, compute: Callable[[], Tensor | None]) -> Tensor | None:
        """Return the constant cached under this key; call ``compute()`` on first use."""
        if key not in self.constants:
            # Leave inference mode: the constant may be used under autograd later.
            with torch.inference_mode(False), torch.no_grad():
                constant = compute()
                if constant is not None:
                    self._versions.append((constant, version_of(constant)))
                self.constants[key] = constant
        return self.constants[key]


def make_series(norm: float, terms: int | None, tolerance: float, series: str) -> Series:
    """Return the polynomial that replaces exp(J) for ||J|| up to ``norm``.

    Args:
        norm: upper limit of ||J||.
        terms: degree, at most 64; None for the lowest one within the tolerance.
        tolerance: bound on ||p(J) - exp(J)||, if ``terms`` is None.
        series: ``"chebyshev"`` or ``"taylor"``.

    Raises:
        ValueError: for an unknown series, another number of terms, and as `exponential_coefficients` and
            `chebyshev_coefficients`.
    """
    if series not in SERIES:
        raise ValueError(f"series must be one of {SERIES}, got {series!r}")
    if terms is not None and not 1 <= terms <= LARGEST_DEGREE:
        raise ValueError(f"train_terms and eval_terms must be from 1 to {LARGEST_DEGREE}, or None, got {terms}")
    if terms is None:
        coefficients = exponential_coefficients(norm, tolerance, series)
    elif series == "taylor":
        coefficients = taylor_coefficients(terms)
    else:
        coefficients = chebyshev_coefficients(terms, norm)
    return Series(*monic_polynomial(coefficients))


def prepare_weight(
    scaled: Tensor, vectors: list[Tensor], series: Series, interval: float, dtype: torch.dtype
) -> PreparedWeight:
    """Prepare a scaled filter for evaluation in the dtype of a layer's weight.

    Args:
        scaled: filter L of the active groups, (c, c/groups, kh, kw), float64.
        vectors: vectors at which the scaling evaluates its norm.
        series: polynomial for norms up to ``interval``.
        interval: expected upper limit of ||J||; no guarantee uses it.
        dtype: of the layer's weight.
    """
    factored = (scaled * series.factor).to(dtype)
    return PreparedWeight(vectors, scaled, factored, series, interval, bool(scaled.isfinite().all()))


def norm_bound(weight: Tensor) -> float:
    """Bound ||J|| of a scaled filter from above: by a cheap bound and, if affordable, by a tight one."""
    channels = weight.shape[1]
    groups = len(weight) // channels
    if weight.shape[-2:] == (1, 1):
        return symbol_bound(weight, groups)
    for most, grid in _GRIDS:
        if channels <= most and max(weight.shape[-2:]) <= grid // 2:
            return reshaped_filter_bound(weight, groups, at_most=symbol_bound(weight, groups, grid))
    return reshaped_filter_bound(weight, groups)


def expected_norm(weight: Tensor, otherwise: float) -> float:
    """Predict `norm_bound` of a scaled filter, the same on every machine up to rounding.

    For narrow groups, the prediction comes from eigenvalues on the grid of the bound. For others, it is ``otherwise``.
    No guarantee uses it.
    """
    channels, kernel = weight.shape[1], weight.shape[-2:]
    grid = _GRIDS[0][1]
    if channels > _NARROW or max(kernel) == 1 or max(kernel) > grid // 2 or not bool(weight.isfinite().all()):
        return otherwise
    response = frequency_response(weight, (grid, grid), len(weight) // channels)
    largest = float(torch.linalg.eigvalsh(response.mul_(1j)).abs().max())
    # The proven bound is larger by up to a few thousandths.
    return 1.004 * largest * room_beyond_grid(kernel, grid)


def expected_norm_bound(estimate: float, channels: int, kernel_size: tuple[int, int]) -> float:
    """Predict `norm_bound` from an estimate of the norm, before there is a filter.

    Evaluation makes its series for this norm, so that it does not wait for the proof. No guarantee uses it: if the norm
    is larger, the bound of the layer is larger, too.

    Args:
        estimate: of the norm, on small circular maps.
        channels: number of channels in a group.
        kernel_size: kh and kw.
    """
    if prod(kernel_size) == 1:
        return 1.02 * estimate
    # Typical ratios: of the supremum over maps of all sizes to the estimate, and of the bound to the supremum.
    beyond = 1.035 if max(kernel_size) <= 3 else 1.15
    grids = [grid for most, grid in _GRIDS if channels <= most and max(kernel_size) <= grid // 2]
    room = room_beyond_grid(kernel_size, grids[0]) if grids else sqrt(prod(kernel_size)) / 2
    return estimate * min(beyond * room, sqrt(prod(kernel_size)))
