"""What skew-orthogonal layers share: the weights, their scaling, and the exponential by one of three engines."""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import (
    apply_dense,
    apply_spectral,
    chebyshev_coefficients,
    exponential_coefficients,
    monic_polynomial,
    polynomial_gain,
    skew_filter,
    skew_polynomial,
    taylor_coefficients,
)
from lipnet.functional.autocast import autocast_dtype, without_autocast
from lipnet.functional.explicit import explicit_polynomial
from lipnet.functional.rounding_error import Signal, Step
from lipnet.layers.base import LipschitzModule
from lipnet.layers.cache import WeightCache
from lipnet.layers.engine import Choice, Situation, choose_engine
from lipnet.layers.evaluation import Evaluation, Series, evaluate, exact_dtype, exponential_matrices, norm_bound
from lipnet.layers.scaling import SCALINGS


class SkewOrthogonal(LipschitzModule):
    """exp(J) with a skew convolution J of ``channels`` channels in ``groups``, of which the first are computed.

    Not used by itself: `SOC` and its relatives give it inputs and take outputs, and say what the options mean.

    Args:
        channels: c, of the skew filter.
        active_groups: how many of the groups are computed.
        kernel_size, groups, padding_mode: of the convolution.
        others: as in `SOC`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int],
        groups: int,
        active_groups: int,
        padding_mode: str,
        *,
        engine: str = "auto",
        series: str = "chebyshev",
        scaling: str = "jacobian",
        train_terms: int | None = None,
        eval_terms: int | None = None,
        train_tolerance: float = 0.05,
        eval_tolerance: float = 1e-4,
        recompute: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {tuple(SCALINGS)}, got {scaling!r}")
        for terms in (train_terms, eval_terms):
            if terms is not None and terms < 1:
                raise ValueError(f"terms must be at least 1, got {train_terms} (training), {eval_terms} (evaluation)")
        self.channels, self.kernel_size, self.groups = channels, kernel_size, groups
        self.active_groups, self.padding_mode = active_groups, padding_mode
        self.engine, self.series, self.recompute = engine, series, recompute
        self.train_terms, self.eval_terms = train_terms, eval_terms
        self.train_tolerance, self.eval_tolerance = train_tolerance, eval_tolerance

        per_group = channels // groups
        self.weight = nn.Parameter(torch.empty(channels, per_group, *kernel_size, device=device, dtype=dtype))
        # Its buffers are in the state dict, so that an interrupted training continues exactly as it would have.
        self.scaling = SCALINGS[scaling](groups, per_group, kernel_size, device, dtype)
        self._training_series = self._series(self.scaling.expected, train_terms, train_tolerance)
        # Refuse what cannot work now, not at the first image.
        self._series(self.scaling.expected, eval_terms, eval_tolerance)
        self._choice(1, (1, 1))
        self._cache: WeightCache[Evaluation] = WeightCache()
        # Whether evaluation is to take plain sums of products alone: see `lipnet.layers.explicit`.
        self.explicit = False

    def reset_weight(self) -> None:
        """Normal weights of standard deviation 1 / sqrt(channels in a group), and the scaling's vectors for them."""
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight.shape[1]))
        with torch.no_grad():
            self.scaling.reset(skew_filter(self.weight, self.groups))

    def exponential(self, maps: Tensor, channels: int, sign: int = 1) -> Tensor:
        """The first channels of exp(sign J) of maps (B, channels of the active groups, H, W).

        Channels of groups that are not active are zeros.
        """
        size = (maps.shape[-2], maps.shape[-1])
        if self.explicit and not self.training:
            return self._explicit_exponential(maps, channels, sign)
        engine = self._choice(len(maps), size).engine
        with without_autocast(maps.device):
            if self.training:
                operand, series = self._training_operand(engine, size, sign)
            else:
                operand, series = self._evaluation_operand(engine, size, sign)
        if series is not None:
            result = skew_polynomial(
                maps,
                operand,
                series.coefficients,
                self.active_groups,
                self.padding_mode,
                channels=channels,
                recompute=self.recompute,
                kept=self._kept(size) if sign > 0 else (),
            )
            return with_channels(result, channels)
        with without_autocast(maps.device):
            apply = apply_spectral if engine == "spectral" else apply_dense
            return with_channels(apply(maps.to(self.weight.dtype), operand), channels)

    def _explicit_exponential(self, maps: Tensor, channels: int, sign: int) -> Tensor:
        """The same by the kept matrix or by Horner's rule, whose rounding `exponential_step` bounds."""
        size = (maps.shape[-2], maps.shape[-1])
        with without_autocast(maps.device):
            # Weights are constants here: what is kept of them is what the bounds speak of.
            with torch.no_grad():
                operand, series = self._evaluation_operand(self.explicit_engine(size), size, sign)
                matrices = self._evaluated().explicit(size) if series else None
            if series is None:
                return with_channels(apply_dense(maps, operand), channels)
            result = explicit_polynomial(
                maps,
                operand,
                series.coefficients,
                self.active_groups,
                self.padding_mode,
                channels=min(channels, maps.shape[1]),
                matrices=matrices if matrices is None or sign > 0 else -matrices,
            )
        return with_channels(result, channels)

    def exponential_step(self, signal: Signal, size: tuple[int, int]) -> Step:
        """The rounding of `exponential` with explicit products, on maps of this size after a stride."""
        with torch.no_grad():
            return self._evaluated().step(signal, self.explicit_engine(size), size)

    def facts(self, size: tuple[int, int]) -> dict[str, Any]:
        """What the bound of the exponential rests on, for maps of this size: engine, degree, bounds, interval."""
        return self._evaluated().facts(self.explicit_engine(size))

    def explicit_engine(self, size: tuple[int, int]) -> str:
        """The engine that certificates take for maps of this size: Fourier transforms give way to the series."""
        engine = self._choice(1, size).engine
        return "series" if engine == "spectral" else engine

    def choice(self, batch: int, size: tuple[int, int]) -> Choice:
        """The engine, and why, for a batch of maps of height and width ``size`` after a stride, in the present mode."""
        return self._choice(batch, size)

    def filter(self) -> Tensor:
        """The scaled skew filter L of the present mode, (c, c/groups, kh, kw), differentiable."""
        with without_autocast(self.weight.device):
            if self.training:
                return self.scaling.scaled_skew(self.weight, self.scaling.stored(self.groups))[0]
            skew = skew_filter(self.weight.double(), self.groups)
            return self.scaling.scaled(skew, self.scaling.converged(skew))[0].to(self.weight.dtype)

    def lipschitz_bound(self) -> float:
        """An upper bound on the Lipschitz constant of the function that this layer computes in its present mode.

        The norm of J is bounded from the filter that is convolved with, never from the stored vectors, and the
        polynomial that stands for the exponential then has the gain max |p(i t)| over |t| <= ||J||. What the other
        engines keep is shrunk to norm 1. Infinite if the weights are not finite.
        """
        if not self.training:
            return self._evaluated().gain
        with torch.no_grad():
            weight = self.filter()[: self._active_channels].double()
            gain = polynomial_gain(
                self._training_series.coefficients, norm_bound(weight * self._training_series.factor)
            )
        return max(gain, 1.0)

    def train(self, mode: bool = True) -> "SkewOrthogonal":
        self._cache.clear()
        return super().train(mode)

    def check_maps(self, height: int, width: int) -> None:
        """Raise ValueError for maps that the kernel reaches around more than once."""
        reach = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        if self.padding_mode == "circular" and (height < reach[0] or width < reach[1]):
            raise ValueError(f"circular padding of {reach} needs maps no smaller, got {height} x {width}")

    def options_repr(self) -> list[str]:
        """The settings that differ from the usual ones."""
        usual: dict[str, Any] = {"engine": "auto", "series": "chebyshev", "padding_mode": "zeros", "recompute": False}
        return [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]

    @property
    def _active_channels(self) -> int:
        return self.active_groups * self.weight.shape[1]

    @property
    def _active_weight(self) -> Tensor:
        # A slice of everything would be copied in the backward pass.
        return self.weight if self.active_groups == self.groups else self.weight[: self._active_channels]

    def _choice(self, batch: int, size: tuple[int, int]) -> Choice:
        situation = Situation(
            padding_mode=self.padding_mode,
            kernel_size=self.kernel_size,
            channels=self.weight.shape[1],
            size=size,
            batch=batch,
            terms=len(self._training_series.coefficients) - 1,
            training=self.training,
            groups=self.active_groups,
        )
        return choose_engine(self.engine, situation)

    def _series(self, norm: float, terms: int | None, tolerance: float) -> Series:
        if terms is None:
            coefficients = exponential_coefficients(norm, tolerance, self.series)
        elif self.series == "taylor":
            coefficients = taylor_coefficients(terms)
        else:
            coefficients = chebyshev_coefficients(terms, norm)
        return Series(*monic_polynomial(coefficients))

    def _training_operand(self, engine: str, size: tuple[int, int], sign: int) -> tuple[Tensor, Series | None]:
        # By every engine the same polynomial of J, so that none changes what is trained.
        series = self._training_series
        vectors = self.scaling.stored(self.active_groups)
        weight, vectors = self.scaling.scaled_skew(self._active_weight, vectors, sign * series.factor)
        self.scaling.store(vectors)
        if engine == "series":
            return weight, series
        coefficients = series.coefficients
        return exponential_matrices(engine, weight, size, self.active_groups, self.padding_mode, coefficients), None

    def _evaluation_operand(self, engine: str, size: tuple[int, int], sign: int) -> tuple[Tensor, Series | None]:
        evaluation = self._evaluated()
        if torch.is_grad_enabled() and self.weight.requires_grad:
            skew = skew_filter(self._active_weight.double(), self.active_groups)
            factor = sign * (evaluation.series.factor if engine == "series" else 1.0)
            weight = self.scaling.scaled(skew, evaluation.vectors, factor)[0]
            if engine == "series":
                return weight.to(self.weight.dtype), evaluation.series
            exact = exponential_matrices(engine, weight, size, self.active_groups, self.padding_mode)
            return exact.to(exact_dtype(engine, self.weight.dtype)), None
        if engine == "series":
            return evaluation.factored if sign > 0 else -evaluation.factored, evaluation.series
        exact = evaluation.exact(engine, size)
        return exact if sign > 0 else exact.mH, None

    def _kept(self, size: tuple[int, int]) -> list[Tensor]:
        """In evaluation without gradients: what the series makes of the filter for maps of this size."""
        if self.training or (torch.is_grad_enabled() and self.weight.requires_grad):
            return []
        if autocast_dtype(self.weight.device) is not None:  # the filter is cast
            return []
        return self._evaluated().operator(size)

    def _evaluated(self) -> Evaluation:
        return self._cache.get(self.weight, self._evaluate)

    def _evaluate(self) -> Evaluation:
        skew = skew_filter(self._active_weight.detach().double(), self.active_groups)
        return evaluate(skew, self.scaling, self._evaluation_series, self.padding_mode, self.weight.dtype)

    def _evaluation_series(self, norm: float) -> Series:
        return self._series(norm, self.eval_terms, self.eval_tolerance)


def map_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a sample (C, H, W), (C, L) or (C,)."""
    height, width = (1, 1, *shape[1:])[-2:]
    return height, width


def with_channels(maps: Tensor, channels: int) -> Tensor:
    """The first ``channels`` channels of the maps, with zeros for those that they do not have."""
    missing = channels - maps.shape[1]
    if missing == 0:
        return maps
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing > 0 else maps[:, :channels]


def per_sample(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of batches (B, C, H, W) to a batch, or to one sample (C, H, W)."""
    return function(x) if x.dim() == 4 else function(x.unsqueeze(0)).squeeze(0)
