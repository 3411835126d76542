"""The registry of rules: Lipschitz bound and rounding of modules that do not bound themselves.

A module has bounds if it is a `lipnet.layers.LipschitzModule` or if its exact class has a rule. Any other module is an
error that names it: no module counts as 1-Lipschitz or exact by default. `bound_of` and `step_of` apply the rules;
`lipnet.certify.torch_rules` has the rules of torch's modules.
"""

from collections.abc import Callable
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnet.certify.arithmetic import explicit_arithmetic
from lipnet.functional import product_up
from lipnet.functional.rounding_error import Signal, Step
from lipnet.layers.base import LipschitzModule
from lipnet.layers.originals import CALLS, Methods, methods_of, replaced_method

Children = list[tuple[str, nn.Module]]


class Rule:
    """Lipschitz bound and rounding of one class of modules; subclass it and register it with `rule`.

    Both methods receive the module, and raise ValueError for a setting that the rule does not cover. If the module
    combines the results of other modules, ``parts`` lists these; their bounds and steps are further arguments.
    """

    calls: tuple[Any, ...] = ()
    """`calls_of` the class when the rule was registered."""

    cls: type[nn.Module]
    """The class."""

    methods: Methods
    """All methods of the class when the rule was registered, by which checks notice that it was changed since."""

    lipschitz: Callable[..., float]
    """``lipschitz(module, *bounds_of_parts)`` returns an upper bound on the Lipschitz constant (L2), rounded up."""

    rounding: Callable[..., Step]
    """``rounding(module, signal, shape, *steps_of_parts)`` bounds the rounding in float64, for one sample: ``signal``
    describes its input, and ``shape`` is the shape of its output. See `lipnet.functional.rounding_error`."""

    def parts(self, module: nn.Module) -> Children:
        """Return the names and modules whose results the module combines; each runs on the module's own input."""
        return []

    def children_in_order(self, module: nn.Module) -> Children | None:
        """Return the names and modules that run one after another if the module does nothing else; otherwise None."""
        return None

    def bind(self, cls: type[nn.Module]) -> None:
        """Note the class, and its methods as they are now."""
        self.calls, self.cls, self.methods = calls_of(cls), cls, methods_of(cls)

    def replaced(self) -> str | None:
        """Return a method of the class that was replaced since the rule was registered, or None."""
        return replaced_method(self.methods, methods_of(self.cls))


class ParametrizedRule(Rule):
    """Rule of a module with torch's parametrizations: the rule of its class, for the weights that these compute.

    Each call of the module computes its weights anew. They must be the same at every call.

    Args:
        plain: the rule of the class.
    """

    def __init__(self, plain: Rule) -> None:
        self.plain, self.calls, self.cls, self.methods = plain, plain.calls, plain.cls, plain.methods
        # Without a bound on the rounding of the plain module there is none of the parametrized one.
        if hasattr(plain, "rounding"):
            self.rounding = self._rounding

    def lipschitz(self, module: nn.Module) -> float:
        return self.plain.lipschitz(evaluated(module))

    def _rounding(self, module: nn.Module, signal: Signal, shape: tuple[int, ...]) -> Step:
        return self.plain.rounding(evaluated(module), signal, shape)


def evaluated(module: nn.Module) -> nn.Module:
    """Return a copy without parametrizations, with the weights that the parametrized module computes and uses.

    Raises:
        ValueError: if a parametrization computes other weights at the next call, or anything but plain real tensors,
            and within ``parametrize.cached()``, which keeps weights that the parameters may no longer give.
    """
    if parametrize._cache_enabled:
        raise ValueError("parametrize.cached() is active, which keeps old weights; leave its context first")
    plain: nn.Module = object.__new__(parametrize.type_before_parametrizations(module))
    plain.__dict__.update(vars(module), _parameters=dict(module._parameters), _modules={})
    for name in module.parametrizations:  # type: ignore[union-attr]
        # Logits are computed without gradients, and attacks with them.
        with torch.no_grad():
            weight = getattr(module, name)
        with torch.enable_grad():
            again = getattr(module, name)
        if type(weight) not in (Tensor, nn.Parameter) or weight.layout != torch.strided or weight.is_complex():
            raise ValueError(f"the parametrization of {name} must compute a plain real tensor, got {weight.dtype}")
        if not torch.equal(weight.nan_to_num(), again.nan_to_num()):
            raise ValueError(f"the parametrization of {name} computes other values at each call; no bound covers it")
        plain._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return plain


_RULES: dict[type[nn.Module], Rule] = {}


def rule(*classes: type[nn.Module]) -> Callable[[type[Rule]], type[Rule]]:
    """Register a rule for exactly these classes of modules, not for their subclasses.

    Raises:
        ValueError: for a class that already has a rule.

    Example:
        >>> from lipnet.functional.rounding_error import elementwise
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
            _RULES[cls].bind(cls)
        return definition

    return register


def calls_of(cls: type[nn.Module]) -> tuple[Any, ...]:
    """Return the functions of a class that decide what a call of its modules computes."""
    return tuple(getattr(cls, name, None) for name in CALLS)


def find_rule(module: nn.Module) -> Rule | None:
    """Return the rule of the module's exact class, or None.

    There are two exceptions: subclasses of nn.Sequential that run their children as nn.Sequential does, and modules
    whose weights torch's parametrizations compute, which keep the rule of their class.
    """
    if parametrize.is_parametrized(module):
        plain = _RULES.get(parametrize.type_before_parametrizations(module))
        childless = module._modules.keys() == {"parametrizations"}
        # Adapters give the class a forward of its own, which does not simply multiply by the weight.
        known = plain is not None and childless and calls_of(type(module)) == plain.calls
        return ParametrizedRule(plain) if known else None  # type: ignore[arg-type]
    found = _RULES.get(type(module))
    if found is None and isinstance(module, nn.Sequential) and not isinstance(module, LipschitzModule):
        alike = type(module).__iter__ is nn.Sequential.__iter__ and calls_of(type(module)) == calls_of(nn.Sequential)
        return _RULES[nn.Sequential] if alike else None
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


def bound_of(path: str, module: nn.Module, estimate: bool = False) -> float:
    """Bound the Lipschitz constant of a module, or estimate it.

    Args:
        path: path of the module in the model, which errors name.
        module: a container, a `LipschitzModule`, or a module with a rule.
        estimate: use each layer's ``lipschitz_estimate()``, which proves nothing.

    Raises:
        TypeError: if a module has no bound.
        ValueError: for a setting without a rule, and a bound that is negative or NaN.
    """
    # As for the logits: what the bound rests on may depend on torch's settings.
    with explicit_arithmetic(module):
        return _bound_of(path, module, estimate)


def _bound_of(path: str, module: nn.Module, estimate: bool) -> float:
    name, found, children = describe(path, module), find_rule(module), children_in_order(module)
    if children is None and found is None and not isinstance(module, LipschitzModule):
        raise TypeError(_no_rule(name, module))
    parts = [] if found is None else found.parts(module)
    bounds = [_bound_of(join(path, part), inner, estimate) for part, inner in children or parts]
    if children is not None:
        return product_up(bounds)
    try:
        if found is not None:
            bound = float(found.lipschitz(module, *bounds))
        else:
            bound = float(module.lipschitz_estimate() if estimate else module.lipschitz_bound())  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"{path or 'the model'}: {error}") from error
    except NotImplementedError as error:
        # torch raises this error, too, for a dtype or device without an operation.
        raise TypeError(f"{name} has no Lipschitz bound: implement lipschitz_bound() ({error})") from error
    if isnan(bound) or bound < 0:
        raise ValueError(f"the Lipschitz bound of {name} must be at least 0, got {bound}")
    return bound


def step_of(path: str, module: nn.Module, signal: Signal, shape: tuple[int, ...], *parts: Step) -> Step:
    """Bound the rounding of a module that is not a container.

    Args:
        path: path of the module in the model, which errors name.
        module: a `LipschitzModule`, or a module with a rule.
        signal, shape, parts: arguments of `Rule.rounding`.

    Raises:
        TypeError: if the module has no bound on its rounding.
        ValueError: for a setting without a rule, and a step that is negative or NaN.
    """
    name, found = describe(path, module), find_rule(module)
    try:
        with explicit_arithmetic(module):
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
        raise ValueError(f"norm, gain and error of the rounding of {name} must be at least 0, got {step}")
    return step


def _no_rule(name: str, module: nn.Module) -> str:
    if callable(getattr(module, "lipschitz_bound", None)):
        return (
            f"{name} has a method lipschitz_bound(), but is not a LipschitzModule: inherit from "
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
