"""Rule of torch's batch normalisation in evaluation mode: bound and rounding."""

from fractions import Fraction
from math import inf, isfinite, prod, sqrt

import torch
from torch import nn

from lipnet.certify.rules import Rule, rule
from lipnet.functional import square_root_up
from lipnet.functional.rounding import to_float64
from lipnet.functional.rounding_error import (
    ELEMENTARY,
    Signal,
    Step,
    accumulated,
    euclidean_norm,
    underflow,
    up,
)

# Below this, treating a subnormal variance as 0 could change 1 / sqrt(var + eps) by more than a rounding.
_SMALLEST_VARIANCE = Fraction(1, 2**900)
_LARGEST_INVERSE_ROOT = 2.0**450
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class _BatchNorm(Rule):
    """Affine map of evaluation: y = (x - mean) weight / sqrt(var + eps) + bias, with the running statistics."""

    def lipschitz(self, module: BatchNorm) -> float:
        """Return the largest |weight| / sqrt(var + eps) of a channel."""
        return max(self._factors(module))

    def rounding(self, module: BatchNorm, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Cover both orders in which torch may compute the map, with a = weight / sqrt(var + eps).

        They are x a + (bias - mean a) and (x - mean) a + bias. torch may compute 1 / sqrt(var + eps) by one elementary
        function. With the sum in the root, the products with weight and x, and the two sums, there are at most
        ELEMENTARY + 6 roundings; the bound has room for two more.
        """
        factors = self._factors(module)
        assert module.running_mean is not None  # `_factors` has refused None
        mean = to_float64(module.running_mean.detach()).cpu()
        # Each channel's constant occurs once per pixel.
        root_of_pixels = sqrt(prod(shape[1:]))
        constant_norm = euclidean_norm(mean * torch.tensor(factors, dtype=torch.float64)) * root_of_pixels
        constant_norm += 0.0 if module.bias is None else euclidean_norm(module.bias) * root_of_pixels
        gain = max(factors)
        # A subnormal weight or factor may count as 0. The lost product is at most TINY |x - mean| / sqrt(var + eps).
        flushed = _LARGEST_INVERSE_ROOT * (1 + signal.computed + euclidean_norm(mean) * root_of_pixels)
        error = accumulated(ELEMENTARY + 8) * (gain * signal.computed + constant_norm)
        error += underflow(signal.entries, 8, gain + flushed)
        return Step(up(gain * signal.norm + constant_norm), gain, up(error))

    def _factors(self, module: BatchNorm) -> list[float]:
        """Return |weight| / sqrt(var + eps) of each channel, rounded up.

        The list is [inf] if any weight or statistic is not finite.
        """
        mean, variance = module.running_mean, module.running_var
        if mean is None or variance is None:
            raise ValueError(
                f"{type(module).__name__} has no running statistics and normalises by the statistics of the batch; the "
                "rule covers track_running_stats=True"
            )
        tensors = {"running_mean": mean, "running_var": variance, "weight": module.weight, "bias": module.bias}
        for name, values in tensors.items():
            if values is not None and tuple(values.shape) != (module.num_features,):
                raise ValueError(
                    f"{type(module).__name__} has num_features {module.num_features}, got {name} of shape "
                    f"{tuple(values.shape)}; build the module with the shape of its weight"
                )
        if not all(bool(values.isfinite().all()) for values in tensors.values() if values is not None):
            return [inf]
        weights = [1.0] * module.num_features if module.weight is None else module.weight.detach().tolist()
        return [_quotient_up(weight, var, module.eps) for weight, var in zip(weights, variance.tolist(), strict=True)]


def _quotient_up(weight: float, variance: float, eps: float) -> float:
    """Return |weight| / sqrt(variance + eps), rounded up; infinity where the root is not safely above 0."""
    if not isfinite(eps) or Fraction(variance) + Fraction(eps) < _SMALLEST_VARIANCE:
        return inf
    return square_root_up(Fraction(weight) ** 2 / (Fraction(variance) + Fraction(eps)))
