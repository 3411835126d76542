"""The rounding of whole models: E, a bound on the distance of computed logits from exact ones (docs/notation.md)."""

from dataclasses import dataclass
from math import ceil, frexp, inf, isfinite, ldexp, prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipnet.certify.arithmetic import explicit_arithmetic, reference_tensor
from lipnet.certify.bounds import LogitBounds, declared_pairwise
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.rules import Children, describe, find_rule, join, leaves, step_of
from lipnet.functional.pairwise import scale_up
from lipnet.functional.rounding_error import Signal, Step, exact, up

# Images in a trial run: two are enough to see whether a model mixes the images of a batch.
_BATCH = 2


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
        return float((2 * self.pairwise / bounds.pairwise.cpu())[apart].max())


class ModuleRun(NamedTuple):
    """One run of a module: its path, the module, and the shapes of a sample before and after it."""

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    result: tuple[int, ...]


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
        ValueError: names a parameter or a module's result in another dtype than float64; and as `lipschitz_bound` and
            `run_in_order`.

    Example:
        >>> from lipnet.layers import SOC, MaxMin
        >>> model = nn.Sequential(SOC(3, 8), MaxMin(), nn.Flatten(), nn.Linear(8 * 64, 10)).double().eval()
        >>> 1e-14 < rounding_bounds(model, (3, 8, 8)).logits < 1e-11
        True
    """
    check_computes_as_declared(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float64:
            raise ValueError(
                f"parameters must be float64, the only dtype whose rounding is bounded, got {name} in "
                f"{parameter.dtype}: call model.double() first"
            )
    signal = Signal(tuple(image_shape), up(sqrt(prod(image_shape))), pixels=True)
    runs = run_in_order(model, image_shape)
    steps: list[Step] = []
    before = 0.0
    for run in runs:
        steps.append(_step(run, signal))
        before = signal.error
        signal = signal.after(steps[-1], run.result)
    return RoundingBounds(_rounded_up(signal.error), _pairwise(runs, steps, before), _with_contributions(runs, steps))


def run_in_order(model: nn.Module, image_shape: tuple[int, ...]) -> list[ModuleRun]:
    """Run a model on two random images, module by module, and return the modules with their shapes.

    Raises:
        ValueError: if a module changes the number of images or the dtype, or if the model computes something else than
            its modules do one after another.
    """
    reference = reference_tensor(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_BATCH, *image_shape), generator=generator, dtype=torch.float64).to(reference)
    with torch.no_grad(), explicit_arithmetic(model):
        runs, results = _run("", model, images)
        together = model(images.clone())
    scale = float(results.abs().nan_to_num(nan=0.0, posinf=0.0).max()) if results.numel() else 0.0
    tolerance = torch.finfo(reference.dtype).eps ** 0.75
    same = together.shape == results.shape
    if not same or not torch.allclose(together, results, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        raise ValueError("the model computes something else than its modules do one after another in their order")
    check_images_apart(model, image_shape)
    return runs


def check_images_apart(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Refuse a model whose results for two images depend on whether they are in one batch.

    Convolutions of torch and lipnet also accept an input without a batch dimension. If an earlier module leaves three
    dimensions of a batch of two, they take it for one image with two channels.

    Raises:
        ValueError: if a batch of one image fails, or gives other results than a batch of two.
    """
    reference = reference_tensor(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_BATCH, *image_shape), generator=generator, dtype=torch.float64).to(reference)
    with torch.no_grad(), explicit_arithmetic(model):
        together = model(images.clone())
        try:
            alone = torch.cat([model(image.clone()) for image in torch.split(images, 1)])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the model does not compute each image by itself; a batch of one fails: {error}"
            ) from error
    scale = float(together.abs().nan_to_num(nan=0.0, posinf=0.0).max()) if together.numel() else 0.0
    tolerance = torch.finfo(reference.dtype).eps ** 0.5
    same = alone.shape == together.shape
    if not same or not torch.allclose(alone, together, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        raise ValueError("the model does not compute each image by itself; a batch of two gives other results")


def _run(path: str, module: nn.Module, values: Tensor) -> tuple[list[ModuleRun], Tensor]:
    """Run a chain of modules one by one; return each run, and the result of the last."""
    runs = []
    for each, leaf in leaves(path, module):
        shape, dtype = tuple(values.shape[1:]), values.dtype
        # A copy, because a module may work in place.
        values = leaf(values.clone())
        if values.shape[:1] != (_BATCH,):
            raise ValueError(
                f"{describe(each, leaf)} must keep the first dimension, which counts the images, got "
                f"{tuple(values.shape)} for {_BATCH} images"
            )
        if values.dtype != dtype:
            raise ValueError(f"{describe(each, leaf)} must return {dtype}, as it receives, got {values.dtype}")
        runs.append(ModuleRun(each, leaf, shape, tuple(values.shape[1:])))
    return runs, values


def _step(run: ModuleRun, signal: Signal) -> Step:
    """Bound the rounding of a module and of the parts that its rule combines."""
    found = find_rule(run.module)
    parts: Children = [] if found is None else found.parts(run.module)
    steps = [_chain(join(run.path, name), part, signal) for name, part in parts]
    return step_of(run.path, run.module, signal, run.result, *steps)


def _chain(path: str, module: nn.Module, signal: Signal) -> Step:
    """Bound the rounding of a part, which may be a chain of modules, as one step."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((_BATCH, *signal.shape), generator=generator, dtype=torch.float64)
    reference = reference_tensor(module)
    inputs, kept = inputs.to(reference), inputs.to(reference, copy=True)
    with torch.no_grad(), explicit_arithmetic(module):
        runs, _ = _run(path, module, inputs)
        module(inputs)
    if not inputs.equal(kept):
        raise ValueError(f"{describe(path, module)} modifies its input, which the module around it reads again")
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


def _pairwise(runs: list[ModuleRun], steps: list[Step], before: float) -> Tensor | None:
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


def _with_contributions(runs: list[ModuleRun], steps: list[Step]) -> tuple[RoundedModule, ...]:
    """Return the modules with their own errors at the logits; ``gain`` is the bound of the modules after each."""
    modules, gain = [], 1.0
    for run, step in zip(reversed(runs), reversed(steps), strict=True):
        contribution = up(gain * step.error) if step.error else 0.0
        modules.append(RoundedModule(run.path, run.module, run.shape, step, contribution))
        gain = up(gain * step.gain)
    return tuple(reversed(modules))
