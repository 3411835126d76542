"""The registry of rules: Lipschitz bound and rounding of the modules that do not bound themselves, torch's among them.

A module is bounded iff it is a `lipnet.layers.LipschitzModule` or its exact class has a rule. A class without a rule is
an error that names the module: nothing is taken for 1-Lipschitz or for exact. `bound_of` and `step_of` are the two
functions that ask the rules.
"""

from collections.abc import Callable
from fractions import Fraction
from math import inf, isfinite, isnan, prod, sqrt
from typing import Any

from torch import Tensor, nn

from lipnet.functional import product_up, reshaped_filters, round_up, spectral_norm_bound, square_root_up
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
from lipnet.layers.residual import Residual

Children = list[tuple[str, nn.Module]]

CALLS = ("forward", "__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "_compiled_call_impl")
"""The attributes of a module that decide what a call of it computes."""

# Room for the rounding of a product of a few floats.
_ROUNDING = 1 + 1e-10


class Rule:
    """What certificates know about one class of modules; subclass it and register it with `rule`.

    Both methods receive the module. A setting that the rule does not cover raises ValueError. A module that combines
    the results of other modules names them in ``parts``; their bounds and steps are passed on as further arguments.
    """

    calls: tuple[Any, ...] = ()

    lipschitz: Callable[..., float]
    """``lipschitz(module, *bounds_of_parts)`` returns an upper bound on the Lipschitz constant (L2), rounded up."""

    rounding: Callable[..., Step]
    """``rounding(module, signal, shape, *steps_of_parts)`` bounds the rounding in float64; ``signal`` describes the
    input, ``shape`` is that of the output, both of one sample. See `lipnet.functional.rounding_error`."""

    def parts(self, module: nn.Module) -> Children:
        """Return the names and modules whose results the module combines; each runs on the module's own input."""
        return []

    def children_in_order(self, module: nn.Module) -> Children | None:
        """Return the names and modules that run one after another, if the module does nothing else."""
        return None


_RULES: dict[type[nn.Module], Rule] = {}


def rule(*classes: type[nn.Module]) -> Callable[[type[Rule]], type[Rule]]:
    """Register a rule for exactly these classes of modules, not for their subclasses.

    Raises:
        ValueError: for a class that already has a rule.

    Example:
        >>> @rule(nn.Softsign)
        ... class SoftsignRule(Rule):
        ...     def lipschitz(self, module):
        ...         return 1.0
        ...     def rounding(self, module, signal, shape):
        ...         return elementwise(signal, roundings=3)
        >>> bound_of("", nn.Softsign())
        1.0
    """

    def register(definition: type[Rule]) -> type[Rule]:
        for cls in classes:
            if cls in _RULES:
                raise ValueError(f"{cls.__name__} already has a rule, {type(_RULES[cls]).__name__}")
            _RULES[cls] = definition()
            _RULES[cls].calls = calls_of(cls)
        return definition

    return register


def calls_of(cls: type[nn.Module]) -> tuple[Any, ...]:
    """Return the functions of a class that decide what a call of its modules computes."""
    return tuple(getattr(cls, name, None) for name in CALLS)


def find_rule(module: nn.Module) -> Rule | None:
    """Return the rule of the module's exact class, or None.

    The one exception are subclasses of nn.Sequential that run their children as nn.Sequential does.
    """
    found = _RULES.get(type(module))
    if found is None and isinstance(module, nn.Sequential) and not isinstance(module, LipschitzModule):
        plain = type(module).__iter__ is nn.Sequential.__iter__ and calls_of(type(module)) == calls_of(nn.Sequential)
        return _RULES[nn.Sequential] if plain else None
    return found


def children_in_order(module: nn.Module) -> Children | None:
    """Return the names and modules that a container runs one after another; None for any other module."""
    found = find_rule(module)
    if found is not None:
        return found.children_in_order(module)
    return module.children_in_order() if isinstance(module, LipschitzModule) else None


def leaves(path: str, module: nn.Module) -> Children:
    """Return the paths and modules that run one after another, with containers replaced by their children."""
    children = children_in_order(module)
    if children is None:
        return [(path, module)]
    return [leaf for name, child in children for leaf in leaves(join(path, name), child)]


def bound_of(path: str, module: nn.Module) -> float:
    """Bound the Lipschitz constant of a module; errors name it by its path in the model."""
    children = children_in_order(module)
    if children is not None:
        return product_up(bound_of(join(path, name), child) for name, child in children)
    name, found = describe(path, module), find_rule(module)
    if found is None and not isinstance(module, LipschitzModule):
        raise TypeError(_no_rule(name, module))
    parts = [] if found is None else found.parts(module)
    bounds = [bound_of(join(path, part), inner) for part, inner in parts]
    try:
        bound = float(module.lipschitz_bound() if found is None else found.lipschitz(module, *bounds))  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"{path or 'the model'}: {error}") from error
    if isnan(bound) or bound < 0:
        raise ValueError(f"{name} answers {bound} for its Lipschitz bound; it must be a number of at least 0")
    return bound


def step_of(path: str, module: nn.Module, signal: Signal, shape: tuple[int, ...], *parts: Step) -> Step:
    """Bound the rounding of a module that is no container; ``parts`` are the steps of its rule's parts."""
    name, found = describe(path, module), find_rule(module)
    try:
        if found is None and isinstance(module, LipschitzModule):
            step = module.rounding_step(signal, shape)
        elif found is not None and hasattr(found, "rounding"):
            step = found.rounding(module, signal, shape, *parts)
        else:
            raise NotImplementedError
    except NotImplementedError as error:
        raise TypeError(
            f"{name} has no rule for its rounding: implement rounding_step(signal, shape) of LipschitzModule, or "
            "rounding(module, signal, shape) of its rule"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not all(number >= 0 for number in step):
        raise ValueError(f"{name} answers {step} for its rounding; norm, gain and error must be at least 0")
    return step


def _no_rule(name: str, module: nn.Module) -> str:
    if callable(getattr(module, "lipschitz_bound", None)):
        return (
            f"{name} has a method lipschitz_bound(), but is no LipschitzModule: inherit from "
            "lipnet.layers.LipschitzModule, or register a rule with lipnet.certify.rule"
        )
    return (
        f"{name} has no rule for its Lipschitz bound: use a module that has one, inherit from "
        "lipnet.layers.LipschitzModule, or register a rule with lipnet.certify.rule"
    )


def join(path: str, name: str) -> str:
    """Return the path of a child."""
    return f"{path}.{name}".strip(".")


def describe(path: str, module: nn.Module) -> str:
    """Return the path and class of a module, for errors."""
    return f"{path or 'the model'} ({type(module).__name__})"


@rule(nn.Sequential)
class _Sequential(Rule):
    def children_in_order(self, module: nn.Module) -> Children:
        assert isinstance(module, nn.Sequential)
        # Not named_children(), which lists a module that occurs, and so runs, twice only once.
        return list(zip(module._modules, module, strict=True))


@rule(Residual)
class _Residual(Rule):
    def parts(self, module: nn.Module) -> Children:
        return [("body", module.body)]  # type: ignore[list-item]

    def lipschitz(self, module: Residual, body: float) -> float:
        if not isfinite(body):
            return inf
        return round_up(Fraction(abs(module.skip)) + Fraction(abs(module.branch)) * Fraction(body))

    def rounding(self, module: Residual, signal: Signal, shape: tuple[int, ...], body: Step) -> Step:
        """Two products and a sum for each entry, after the body's own rounding."""
        skip, branch = abs(module.skip), abs(module.branch)
        sizes = skip * signal.computed + branch * signal.after(body, signal.shape).computed
        underflow = TINY * sqrt(signal.entries) * (4 + skip + branch)
        return Step(
            up(skip * signal.norm + branch * body.norm),
            up(skip + branch * body.gain),
            up(branch * body.error + accumulated(2) * sizes + underflow),
        )


@rule(nn.ChannelShuffle, nn.Dropout, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ReLU)
class _Exact(Rule):
    """Entries are moved, dropped or kept: 1-Lipschitz without rounding."""

    def lipschitz(self, module: nn.Module) -> float:
        return 1.0

    def rounding(self, module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)


@rule(nn.Flatten)
class _Flatten(_Exact):
    def lipschitz(self, module: nn.Module) -> float:
        assert isinstance(module, nn.Flatten)
        if module.start_dim == 0:
            raise ValueError("Flatten has start_dim 0, which mixes the images of a batch; it must be at least 1")
        return 1.0


@rule(nn.Linear)
class _Linear(Rule):
    def lipschitz(self, module: nn.Linear) -> float:
        _check_shape(module, (module.out_features, module.in_features))
        return spectral_norm_bound(module.weight)

    def rounding(self, module: nn.Linear, signal: Signal, shape: tuple[int, ...]) -> Step:
        # On an input of several dimensions the layer multiplies each vector of the last one, which changes no norm.
        vectors = prod(shape[:-1])
        return products(
            signal,
            length=module.weight.shape[1],
            magnitude=absolute_norm(module.weight),
            gain=self.lipschitz(module),
            outputs=prod(shape),
            bias_norm=_bias_norm(module.bias, vectors),
        )


@rule(nn.Conv2d)
class _Conv2d(Rule):
    def lipschitz(self, module: nn.Conv2d) -> float:
        """Bound by sqrt(kh kw) times the norm of a reshaped filter.

        This holds for every stride and dilation: they only leave rows out or move taps apart.
        """
        self._check(module)
        norms = [min(map(spectral_norm_bound, matrices)) for matrices in _reshaped(module.weight, module.groups)]
        return product_up([max(norms), sqrt(prod(module.weight.shape[-2:])) * _ROUNDING])

    def rounding(self, module: nn.Conv2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        return products(
            signal,
            length=prod(module.weight.shape[1:]),
            magnitude=absolute_filter_norm(module.weight, module.groups),
            gain=self.lipschitz(module),
            outputs=prod(shape),
            bias_norm=_bias_norm(module.bias, prod(shape[1:])),
        )

    def _check(self, module: nn.Conv2d) -> None:
        groups, kernel = module.groups, module.kernel_size
        _check_shape(module, (module.out_channels, module.in_channels // groups, *kernel))
        if module.padding_mode not in ("zeros", "circular"):
            raise ValueError(f"Conv2d has padding_mode {module.padding_mode!r}; the rule covers 'zeros' and 'circular'")
        if module.padding_mode == "zeros":
            return
        # Circular padding is read from this private copy, not from module.padding.
        padding = module._reversed_padding_repeated_twice
        reach = [dilation * (size - 1) for dilation, size in zip(module.dilation, kernel, strict=True)]
        if any(
            before + after > most for before, after, most in zip(padding[2::-2], padding[3::-2], reach, strict=True)
        ):
            raise ValueError(
                f"Conv2d has circular padding {module.padding} for a kernel of {kernel}, which repeats pixels; "
                "the rule covers up to dilation * (kernel_size - 1) / 2"
            )


def _check_shape(module: nn.Linear | nn.Conv2d, stated: tuple[int, ...]) -> None:
    """Refuse attributes that contradict the weight, which alone decides what is computed."""
    shape = tuple(module.weight.shape)
    bias = shape[:1] if module.bias is None else tuple(module.bias.shape)
    if shape != stated or bias != shape[:1]:
        raise ValueError(
            f"{type(module).__name__} has attributes for a weight of shape {stated}, got a weight of shape {shape} and "
            f"a bias of shape {bias}; build the module with the shape of its weight"
        )


def _reshaped(weight: Tensor, groups: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return three of the 'fantastic four' matrices of each group: (o; i a b), (i; o a b) and (o a; i b)."""
    flat, blocked = reshaped_filters(weight, groups)
    taps = prod(weight.shape[-2:])
    transposed = flat.reshape(groups, flat.shape[1], -1, taps).transpose(1, 2).flatten(2)
    return list(zip(flat, transposed, blocked, strict=True))


def _bias_norm(bias: Tensor | None, times: int) -> float:
    return 0.0 if bias is None else up(euclidean_norm(bias) * sqrt(times))


@rule(nn.LeakyReLU)
class _LeakyReLU(Rule):
    def lipschitz(self, module: nn.LeakyReLU) -> float:
        return max(1.0, abs(module.negative_slope))

    def rounding(self, module: nn.LeakyReLU, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=1, gain=self.lipschitz(module))


@rule(nn.Tanh)
class _Tanh(Rule):
    def lipschitz(self, module: nn.Tanh) -> float:
        return 1.0

    def rounding(self, module: nn.Tanh, signal: Signal, shape: tuple[int, ...]) -> Step:
        return elementwise(signal, roundings=ELEMENTARY)


@rule(nn.AvgPool2d)
class _AvgPool2d(Rule):
    def lipschitz(self, module: nn.AvgPool2d) -> float:
        """Return 1 / sqrt(n) for windows of n pixels that do not overlap."""
        if module.stride != module.kernel_size or module.padding not in (0, (0, 0)):
            raise ValueError(f"{module} has windows that overlap, have gaps or are padded, for which there is no rule")
        if module.ceil_mode or module.divisor_override is not None:
            raise ValueError(f"{module} has ceil_mode or divisor_override, for which there is no rule")
        return square_root_up(Fraction(1, _window(module)))

    def rounding(self, module: nn.AvgPool2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        return _means(signal, shape, _window(module), self.lipschitz(module))


@rule(nn.AdaptiveAvgPool2d)
class _AdaptiveAvgPool2d(Rule):
    def lipschitz(self, module: nn.AdaptiveAvgPool2d) -> float:
        if module.output_size not in (1, (1, 1)):
            raise ValueError(f"{module} has windows that may overlap; the rule covers an output of 1 x 1")
        return 1.0

    def rounding(self, module: nn.AdaptiveAvgPool2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        return _means(signal, shape, prod(signal.shape[1:]), self.lipschitz(module))


def _window(module: nn.AvgPool2d) -> int:
    size = module.kernel_size
    return size * size if isinstance(size, int) else prod(size)


def _means(signal: Signal, shape: tuple[int, ...], count: int, gain: float) -> Step:
    return products(signal, length=count, magnitude=up(1 / sqrt(count)), gain=gain, outputs=prod(shape))


@rule(nn.MaxPool2d)
class _MaxPool2d(_Exact):
    def lipschitz(self, module: nn.Module) -> float:
        assert isinstance(module, nn.MaxPool2d)
        if module.stride != module.kernel_size or module.dilation not in (1, (1, 1)):
            raise ValueError(f"{module} has windows that overlap or have gaps, for which there is no rule")
        if module.return_indices:
            raise ValueError(f"{module} returns indices, for which there is no rule")
        return 1.0
