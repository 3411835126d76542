"""How far rounding can carry a model's logits from exact arithmetic, by a rule for each kind of module."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, frexp, inf, isfinite, ldexp, prod, sqrt

import torch
from torch import Tensor, nn

from lipnet.certify.bound import bound_of, check_running, children_in_order, window_of
from lipnet.certify.logits import declared_pairwise
from lipnet.certify.precision import dot_product_arithmetic
from lipnet.functional.pairwise import scale_up
from lipnet.functional.rounding_error import (
    ELEMENTARY,
    TINY,
    Signal,
    Step,
    absolute_filter_norm,
    absolute_norm,
    accumulated,
    elementwise,
    euclidean_norm,
    exact,
    products,
    up,
)
from lipnet.layers.base import LipschitzModule
from lipnet.layers.explicit import explicit_products
from lipnet.layers.residual import Residual

Rule = Callable[[nn.Module, Signal, tuple[int, ...]], Step]
# Path, module, shape of the samples that come in, what the module does.
RoundedStep = tuple[str, nn.Module, tuple[int, ...], Step]


@dataclass(frozen=True)
class RoundedModule:
    """A module on the way from the pixels to the logits, and what its rounding does.

    Attributes:
        path: of the module in the model.
        module: the module itself.
        shape: of the samples that come in.
        step: what the module does to exact and computed values.
        contribution: its own error, carried on to the logits by the bounds of the modules after it.
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
        pairwise: float64 (C, C), of the differences f_i - f_j, where the head declares bounds for these; None for
            sqrt(2) E.
        modules: in the order in which they run.
    """

    logits: float
    pairwise: Tensor | None
    modules: tuple[RoundedModule, ...]


def rounding_bounds(model: nn.Module, image_shape: tuple[int, ...]) -> RoundingBounds:
    """The rounding of a model in float64 that runs within `lipnet.layers.explicit.explicit_products`.

    From module to module it follows a bound on the norm of the exact values and one on the distance of the computed
    ones. Modules that answer ``rounding_step(signal, shape)`` themselves are asked; modules of torch have a rule here,
    found by their exact class. A module without either is an error: nothing is ever taken for exact.

    Args:
        model: float64, in evaluation mode.
        image_shape: (C, H, W) of one image, with pixels in [0, 1].

    Raises:
        TypeError: names the module that has no rule.
        ValueError: names a parameter of another dtype than float64, or a module with such results, and as
            `lipschitz_bound`.

    Example:
        >>> from lipnet.layers import SOC, MaxMin
        >>> model = nn.Sequential(SOC(3, 8), MaxMin(), nn.Flatten(), nn.Linear(8 * 64, 10)).double().eval()
        >>> 1e-14 < rounding_bounds(model, (3, 8, 8)).logits < 1e-11
        True
    """
    check_running(model)
    _check_dtypes(model)
    signal = Signal(tuple(image_shape), up(sqrt(prod(image_shape))), pixels=True)
    steps: list[RoundedStep] = []
    before = 0.0
    for path, module, shape, result in run_in_order(model, image_shape):
        step = _step_of(path, module, signal, result)
        steps.append((path, module, shape, step))
        before = signal.error
        signal = signal.after(step, result)
    return RoundingBounds(_rounded_up(signal.error), _pairwise(steps, before), _with_contributions(steps))


def run_in_order(
    model: nn.Module, image_shape: tuple[int, ...]
) -> list[tuple[str, nn.Module, tuple[int, ...], tuple[int, ...]]]:
    """Run a model, in evaluation mode, on one image in its certified arithmetic, module by module.

    Returns:
        The modules that run one after another: path, module, shapes of a sample before and behind it.
    """
    reference = next(model.parameters(), torch.empty(0, dtype=torch.float64))
    maps = torch.zeros(1, *image_shape, dtype=reference.dtype, device=reference.device)
    modules = []
    with torch.no_grad(), explicit_products(model), dot_product_arithmetic(reference.device):
        for path, module in _in_order("", model):
            shape = tuple(maps.shape[1:])
            maps = module(maps)
            if maps.dtype != reference.dtype:
                raise ValueError(f"{path} ({type(module).__name__}) turns {reference.dtype} into {maps.dtype}")
            modules.append((path, module, shape, tuple(maps.shape[1:])))
    return modules


def _rounded_up(bound: float) -> float:
    """To 20 binary digits, so that machines that sum in another order find the same number."""
    if not isfinite(bound):
        return bound
    mantissa, exponent = frexp(bound)
    return ldexp(ceil(mantissa * 2**20) / 2**20, exponent)


def _check_dtypes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float64:
            raise ValueError(
                f"rounding is bounded in float64 alone, but {name} is {parameter.dtype}: call model.double() first"
            )


def _in_order(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that run one after another, without those that only hold others."""
    children = children_in_order(path, module)
    if children is None and isinstance(module, LipschitzModule) and (own := module.children_in_order()) is not None:
        children = [(f"{path}.{name}".strip("."), child) for name, child in own]
    if children is None:
        return [(path, module)]
    return [leaf for child in children for leaf in _in_order(*child)]


def _step_of(path: str, module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    if type(module) is Residual:
        return _residual(path, module, signal)
    own = getattr(module, "rounding_step", None)
    name = f"{path or 'the model'} ({type(module).__name__})"
    try:
        if callable(own):
            step: Step = own(signal, shape)
            return step
        if type(module) in _RULES:
            return _RULES[type(module)](module, signal, shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    raise TypeError(
        f"{name} has no rule for its rounding: give it a method rounding_step(signal, shape), see "
        "lipnet.functional.rounding_error"
    )


def _residual(path: str, module: Residual, signal: Signal) -> Step:
    """The body's modules one after another, and two products and a sum for each entry."""
    inside, body = signal, exact(signal)
    for inner_path, inner, _, result in run_in_order(module.body, signal.shape):
        step = _step_of(f"{path}.body.{inner_path}".strip("."), inner, inside, result)
        inside, body = inside.after(step, result), body.then(step)
    skip, branch = abs(module.skip), abs(module.branch)
    sizes = skip * signal.computed + branch * inside.computed
    underflow = TINY * sqrt(signal.entries) * (4 + skip + branch)
    return Step(
        up(skip * signal.norm + branch * body.norm),
        up(skip + branch * body.gain),
        up(branch * body.error + accumulated(2) * sizes + underflow),
    )


def _pairwise(steps: list[RoundedStep], before: float) -> Tensor | None:
    """The error of each difference of two logits: D times that of the features, and sqrt(2) times the head's own."""
    if not steps:
        return None
    path, head, _, step = steps[-1]
    declared = declared_pairwise(path, head)
    if declared is None:
        return None
    own = up(sqrt(2) * step.error)
    errors = scale_up(declared, before) + own
    return torch.nextafter(errors, torch.full_like(errors, inf)).nan_to_num(nan=inf, posinf=inf)


def _with_contributions(steps: list[RoundedStep]) -> tuple[RoundedModule, ...]:
    modules, gain = [], 1.0
    for path, module, shape, step in reversed(steps):
        contribution = up(gain * step.error) if step.error else 0.0
        modules.append(RoundedModule(path, module, shape, step, contribution))
        gain = up(gain * step.gain)
    return tuple(reversed(modules))


def _exactly(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    return exact(signal)


def _linear(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    assert isinstance(module, nn.Linear)
    # A layer on the last dimension of several takes part once for each vector, which changes no norm.
    vectors = prod(shape[:-1])
    return products(
        signal,
        length=module.in_features,
        magnitude=absolute_norm(module.weight),
        gain=bound_of("", module),
        outputs=prod(shape),
        bias_norm=_bias_norm(module.bias, vectors),
    )


def _conv2d(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    assert isinstance(module, nn.Conv2d)
    return products(
        signal,
        length=prod(module.weight.shape[1:]),
        magnitude=absolute_filter_norm(module.weight, module.groups),
        gain=bound_of("", module),
        outputs=prod(shape),
        bias_norm=_bias_norm(module.bias, prod(shape[1:])),
    )


def _bias_norm(bias: Tensor | None, times: int) -> float:
    return 0.0 if bias is None else up(euclidean_norm(bias) * sqrt(times))


def _avg_pool2d(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    assert isinstance(module, nn.AvgPool2d)
    return _means(module, signal, shape, window_of(module))


def _adaptive_avg_pool2d(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    return _means(module, signal, shape, prod(signal.shape[1:]))


def _means(module: nn.Module, signal: Signal, shape: tuple[int, ...], count: int) -> Step:
    gain = bound_of("", module)
    return products(signal, length=count, magnitude=up(1 / sqrt(count)), gain=gain, outputs=prod(shape))


def _leaky_relu(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    return elementwise(signal, roundings=1, gain=bound_of("", module))


def _tanh(module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
    return elementwise(signal, roundings=ELEMENTARY)


_RULES: dict[type[nn.Module], Rule] = {
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    nn.AvgPool2d: _avg_pool2d,
    nn.Conv2d: _conv2d,
    nn.Dropout: _exactly,
    nn.Flatten: _exactly,
    nn.Identity: _exactly,
    nn.LeakyReLU: _leaky_relu,
    nn.Linear: _linear,
    nn.MaxPool2d: _exactly,
    nn.PixelShuffle: _exactly,
    nn.PixelUnshuffle: _exactly,
    nn.ReLU: _exactly,
    nn.ChannelShuffle: _exactly,
    nn.Tanh: _tanh,
}
