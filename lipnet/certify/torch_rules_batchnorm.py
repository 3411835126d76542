"""Rule of torch's batch normalisation in evaluation: bound and rounding."""

from fractions import Fraction
from math import inf, isfinite, prod, sqrt

import torch
from torch import nn

from lipnet.certify.rules import Rule, rule
from lipnet.functional import square_root_up
from lipnet.functional.rounding import to_float64
from lipnet.functional.rounding_error import (
    ELEMENTARY,
    TINY,
    Signal,
    Step,
    accumulated,
    euclidean_norm,
    up,
)

# If var + eps is smaller, flushing a subnormal variance to 0 could change the quotient noticeably.
_SMALLEST_VARIANCE = Fraction(1, 2**900)


@rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class _BatchNorm(Rule):
    """Affine map of evaluation: y = (x - mean) weight / sqrt(var + eps) + bias, with the running statistics."""

    def lipschitz(self, module: nn.BatchNorm2d) -> float:
        """Return the largest |weight| / sqrt(var + eps) of a channel."""
        return max(self._factors(module))

    def rounding(self, module: nn.BatchNorm2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Cover torch's two orders: x a + (bias - mean a) with a = weight / sqrt(var + eps), and the formula above.

        The factor a takes a sum, a root, a quotient and a product; one elementary function may replace the root and the
        quotient. A difference, a product and a sum follow.
        """
        factors = self._factors(module)
        assert module.running_mean is not None
        mean = to_float64(module.running_mean.detach()).cpu()
        repeated = sqrt(prod(shape[1:]))
        shift = euclidean_norm(mean * torch.tensor(factors, dtype=torch.float64)) * repeated
        shift += 0.0 if module.bias is None else euclidean_norm(module.bias) * repeated
        gain = max(factors)
        # A flushed weight or factor counts as 0, which loses TINY times |x - mean| / root; 1 / root is at most 2^450.
        lost = 2.0**450 * (1 + signal.computed + euclidean_norm(mean) * repeated)
        underflow = TINY * sqrt(signal.entries) * 8 * (2 + gain + lost)
        error = accumulated(ELEMENTARY + 8) * (gain * signal.computed + shift) + underflow
        return Step(up(gain * signal.norm + shift), gain, up(error))

    def _factors(self, module: nn.BatchNorm2d) -> list[float]:
        """Return |weight| / sqrt(var + eps) of each channel, rounded up; infinity alone if a value is not finite."""
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
