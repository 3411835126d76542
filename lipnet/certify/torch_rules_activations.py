"""Rules of torch's activations: bound and rounding of each side by side.

The constants are the largest slopes, rounded up in the last decimal; `tests/certify/test_torch_rules.py` proves them
by interval arithmetic. u is the unit roundoff, and ELEMENTARY counts the roundings of exp, expm1, erf, tanh and log1p.
"""

from math import exp, inf, log, log1p, sqrt
from typing import ClassVar

from torch import nn

from lipnet.certify.rules import Rule, rule
from lipnet.functional.rounding_error import (
    ELEMENTARY,
    TINY,
    Signal,
    Step,
    accumulated,
    elementwise,
    up,
)


@rule(nn.LeakyReLU)
class _LeakyReLU(Rule):
    def lipschitz(self, module: nn.LeakyReLU) -> float:
        return max(abs(module.negative_slope), 1.0)

    def rounding(self, module: nn.LeakyReLU, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=self.lipschitz(module))


@rule(nn.PReLU)
class _PReLU(Rule):
    def lipschitz(self, module: nn.PReLU) -> float:
        """Return the largest slope, at least 1; infinite if one is not finite."""
        if tuple(module.weight.shape) != (module.num_parameters,):
            raise ValueError(
                f"PReLU has num_parameters {module.num_parameters}, got a weight of shape "
                f"{tuple(module.weight.shape)}; build the module with the shape of its weight"
            )
        largest = float(module.weight.detach().abs().max())
        return max(1.0, largest) if largest < inf else inf

    def rounding(self, module: nn.PReLU, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=self.lipschitz(module))


@rule(nn.Tanh)
class _Tanh(Rule):
    def lipschitz(self, module: nn.Tanh) -> float:
        return 1.0

    def rounding(self, module: nn.Tanh, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=ELEMENTARY)


@rule(nn.ELU)
class _ELU(Rule):
    """x for x > 0, else alpha (e^x - 1), with slopes 1 and alpha e^x."""

    def lipschitz(self, module: nn.ELU) -> float:
        return max(abs(module.alpha), 1.0)

    def rounding(self, module: nn.ELU, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Cover e^x - 1 by expm1, with a small relative error, and by a difference, with an absolute error of 9 u."""
        step = elementwise(signal, roundings=ELEMENTARY + 2, gain=self.lipschitz(module))
        absolute = accumulated(ELEMENTARY + 4) * abs(module.alpha) * sqrt(signal.entries)
        return step._replace(error=up(step.error + absolute))


@rule(nn.GELU)
class _GELU(Rule):
    """x Phi(x), or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2; both have the slopes g(x) and 1 - g(x) at x, -x.

    The first has its largest slope, Phi(x) + x phi(x), at x = sqrt(2), where its derivative (2 - x^2) phi(x) is zero.
    """

    slopes: ClassVar[dict[str, float]] = {"none": 1.1289041452, "tanh": 1.1289930687}

    def lipschitz(self, module: nn.GELU) -> float:
        if module.approximate not in self.slopes:
            raise ValueError(f"approximate must be one of {', '.join(self.slopes)}, got {module.approximate!r}")
        return self.slopes[module.approximate]

    def rounding(self, module: nn.GELU, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the error by |x| times ELEMENTARY + 8 roundings.

        erf and tanh are at most 1 and err by at most ELEMENTARY u. Their arguments err by at most 9 u of their size,
        which moves the results by less than 9 u / 2, since |z| erf'(z) and |z| tanh'(z) are below 1 / 2. The sum with 1
        and two products follow.
        """
        return elementwise(signal, roundings=ELEMENTARY + 8, gain=self.lipschitz(module))


@rule(nn.SiLU)
class _SiLU(Rule):
    """x / (1 + e^-x), with the slopes g(x) and 1 - g(x) at x and -x."""

    def lipschitz(self, module: nn.SiLU) -> float:
        return 1.0998393202

    def rounding(self, module: nn.SiLU, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=ELEMENTARY + 3, gain=self.lipschitz(module))


@rule(nn.Sigmoid)
class _Sigmoid(Rule):
    """1 / (1 + e^-x), in (0, 1), of slope at most 1/4."""

    def lipschitz(self, module: nn.Sigmoid) -> float:
        return 0.25

    def rounding(self, module: nn.Sigmoid, signal: Signal, shape: tuple[int, ...]) -> Step:
        largest = sqrt(signal.entries)
        norm = min(largest, largest / 2 + signal.norm / 4)
        return Step(up(norm), 0.25, up((accumulated(ELEMENTARY + 3) + 4 * TINY) * largest))


@rule(nn.Softplus)
class _Softplus(Rule):
    """log(1 + e^(beta x)) / beta, of slope below 1. Where beta x exceeds the threshold, torch returns x itself.

    The bounds hold for the smooth function. The jump at the threshold, at most log(1 + e^-threshold) / beta for each
    entry, counts as rounding. For beta = 1 it is 2e-9 at torch's default threshold of 20, and 4e-18 at 40.
    """

    def lipschitz(self, module: nn.Softplus) -> float:
        if not TINY <= module.beta < inf:
            raise ValueError(f"Softplus must have a positive and finite beta, got {module.beta}")
        if not 20 <= module.threshold <= 700:
            raise ValueError(
                f"Softplus must have a threshold from 20 to 700, got {module.threshold}: below, it jumps noticeably at "
                "the threshold, and above, its exponential overflows"
            )
        return 1.0

    def rounding(self, module: nn.Softplus, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Add the error of beta x, relative to |x|, and the error of exp, log1p and the quotient, relative to f(x)."""
        gain, entries = self.lipschitz(module), sqrt(signal.entries)
        at_zero = log(2) / module.beta * entries
        # torch compares the computed beta x with the threshold, so the jump may happen one rounding below it.
        jump = log1p(exp(-module.threshold * (1 - 1e-10))) / module.beta * entries
        error = accumulated(2 * ELEMENTARY + 4) * (2 * signal.computed + at_zero) + jump * (1 + 1e-9)
        underflow = TINY * entries * (4 + 4 / module.beta)
        return Step(up(signal.norm + at_zero), gain, up(error + underflow))
