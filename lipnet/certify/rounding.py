"""The rounding of whole models: E, a bound on the distance of computed logits from exact ones (docs/notation.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, frexp, inf, isfinite, ldexp, prod, sqrt

import torch
from torch import Tensor, nn

from lipnet.certify.bounds import LogitBounds, declared_pairwise
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.rules import join, step_of
from lipnet.certify.trial_run import ModuleRun, run_in_order
from lipnet.functional.pairwise import scale_up
from lipnet.functional.rounding_error import Signal, Step, exact, up
from lipnet.layers.normalize import Normalize

# Norm up to which no square, no sum of squares and no sum of the entries of a tensor overflows.
_LARGEST = 2.0**500


@dataclass(frozen=True)
class RoundedModule:
    """A module on the way from the pixels to the logits, and its rounding.

    Attributes:
        path: path of the module in the model.
        module: the module itself.
        shape: shape of its input, for one sample.
        step: effect of the module on exact and computed values.
        contribution: its own error at the logits: multiplied by the bounds of the modules after it.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    step: Step
    contribution: float


@dataclass(frozen=True, eq=False)
class RoundingBounds:
    """Upper bounds on the distance of computed logits from exact ones, for all images with pixels in [0, 1].

    Attributes:
        logits: E, in the Euclidean norm of all logits together.
        pairwise: float64 (C, C), for the differences f_i - f_j, if the head declares bounds for these; None for
            sqrt(2) E.
        modules: the modules in the order in which they run.
    """

    logits: float
    pairwise: Tensor | None
    modules: tuple[RoundedModule, ...]

    def radius_cost(self, bounds: LogitBounds) -> float:
        """Return the largest reduction of a certified radius due to rounding, for the model's Lipschitz bounds."""
        if bounds.pairwise is None or self.pairwise is None:
            return 2 * self.logits / bounds.lipschitz
        apart = ~torch.eye(len(self.pairwise), dtype=torch.bool)
        return float((2 * self.pairwise.cpu() / bounds.pairwise.cpu())[apart].max())


def rounding_bounds(model: nn.Module, image_shape: tuple[int, ...]) -> RoundingBounds:
    """Bound the rounding of a float64 model within `lipnet.certify.explicit_arithmetic`.

    Each module updates two numbers: a bound on the norm of the exact values, and a bound on the distance of the
    computed values from them. A `LipschitzModule` does so by its ``rounding_step(signal, shape)``; other modules have
    a rule for their exact class (`lipnet.certify.rule`). A module without either is an error.

    Args:
        model: float64, in evaluation mode.
        image_shape: (C, H, W) of one image, with pixels in [0, 1].

    Raises:
        TypeError: names the module that has no rule.
        ValueError: names a tensor of a module, or a module's result, in another dtype than float64; and as
            `lipschitz_bound` and `lipnet.certify.trial_run.run_in_order`.

    Example:
        >>> from lipnet.layers import SOC, MaxMin
        >>> model = nn.Sequential(SOC(3, 8), MaxMin(), nn.Flatten(), nn.Linear(8 * 64, 10)).double().eval()
        >>> 1e-14 < rounding_bounds(model, (3, 8, 8)).logits < 1e-11
        True
    """
    check_computes_as_declared(model)
    _check_float64(model)
    signal = Signal(tuple(image_shape), up(sqrt(prod(image_shape))), pixels=True)
    runs = run_in_order(model, image_shape)
    steps: list[Step] = []
    before = 0.0
    for run in runs:
        steps.append(_step(run, signal))
        before = signal.error
        signal = signal.after(steps[-1], run.result)
    return RoundingBounds(_rounded_up(signal.error), _pairwise(runs, steps, before), _with_contributions(runs, steps))


def _check_float64(model: nn.Module) -> None:
    """Refuse floating-point tensors in another dtype: parameters, buffers and plain attributes of all modules."""
    for path, module in model.named_modules():
        if type(module) is Normalize:
            continue  # its mean is only subtracted, which converts it exactly
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                raise ValueError(
                    "parameters, buffers and other tensors must be float64, the only dtype whose rounding is bounded, "
                    f"got {join(path, name)} in {value.dtype}: call model.double(), which converts parameters and "
                    "buffers, and convert other tensors yourself"
                )


def _step(run: ModuleRun, signal: Signal) -> Step:
    """Bound the rounding of a module and of the parts that its rule combines.

    Rules count roundings, not overflows. So values whose squares or sums might overflow have no bound at all.
    """
    step = step_of(run.path, run.module, signal, run.result, *(_chain(part, signal) for part in run.parts))
    largest = max(signal.computed, signal.after(step, run.result).computed)
    return step if largest <= _LARGEST else step._replace(error=inf)


def _chain(runs: Sequence[ModuleRun], signal: Signal) -> Step:
    """Bound the rounding of modules that run one after another as one step."""
    whole = exact(signal)
    for run in runs:
        step = _step(run, signal)
        signal, whole = signal.after(step, run.result), whole.then(step)
    return whole


def _rounded_up(bound: float) -> float:
    """Round up to 20 binary digits, so that machines that sum in different orders find the same number."""
    if not isfinite(bound):
        return bound
    mantissa, exponent = frexp(bound)
    return ldexp(ceil(mantissa * 2**20) / 2**20, exponent)


def _pairwise(runs: Sequence[ModuleRun], steps: list[Step], before: float) -> Tensor | None:
    """Bound the error of each difference of two logits: D times the features' error, plus sqrt(2) times the head's.

    Args:
        runs, steps: the modules' runs and roundings, in order.
        before: bound on the error of the features, the input of the last module.
    """
    if not runs:
        return None
    declared = declared_pairwise(runs[-1].path, runs[-1].module)
    if declared is None:
        return None
    own = up(sqrt(2) * steps[-1].error)
    errors = scale_up(declared, before) + own
    return torch.nextafter(errors, torch.full_like(errors, inf)).nan_to_num(nan=inf, posinf=inf)


def _with_contributions(runs: Sequence[ModuleRun], steps: list[Step]) -> tuple[RoundedModule, ...]:
    """Return the modules with their own errors at the logits; ``gain`` is the bound of the modules after each."""
    modules, gain = [], 1.0
    for run, step in zip(reversed(runs), reversed(steps), strict=True):
        contribution = up(gain * step.error) if step.error else 0.0
        modules.append(RoundedModule(run.path, run.module, run.shape, step, contribution))
        gain = up(gain * step.gain)
    return tuple(reversed(modules))
