"""Checks that refuse models whose computation may differ from what their modules' classes declare.

Rules and bounds belong to classes: they are right for the ``forward`` of the class, its weights and its settings. These
checks refuse everything that can silently make a module compute another function than the bounded one.

Two kinds of methods matter. *Calls* compute the output: ``forward`` and torch's methods around it, `CALLS`. *Answers*
are what certificates rest on: ``lipschitz_bound``, ``rounding_step`` and others. A class that overrides a call must
also define the answers about it.
"""

from collections.abc import Iterator
from numbers import Number

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lipnet.certify.rules import children_in_order, describe, find_rule, join
from lipnet.layers.base import LipschitzModule
from lipnet.layers.originals import CALLS, WatchedModule, replaced_in_bases

# Methods that a subclass may override freely: no output depends on them.
_COMPUTES_NOTHING = (
    "check",
    "extra_repr",
    "layer_facts",
    "lipschitz_estimate",
    "reset_bias",
    "reset_parameters",
    "train",
)
_ANSWERS = ("lipschitz_bound", "children_in_order", "rounding_step", "pairwise_lipschitz")
# Advice on parametrizations without a rule.
MERGE = (
    "merge adapters with lipnet.structured.adapters.merge(model), or bake the weights in with "
    "torch.nn.utils.parametrize.remove_parametrizations(module, name)"
)


def check_computes_as_declared(model: nn.Module) -> None:
    """Refuse a model that may compute something other than its modules' classes declare.

    Args:
        model: the whole model; its modules are checked, too.

    Raises:
        ValueError: names the module and the reason: training mode, hooks, parametrizations of modules without a rule,
            compiled or replaced calls, a ``forward`` in a subclass of the class that defines the bound, in-place
            modules whose input is read again, weights that are complex, on the meta device or of a subclass of Tensor,
            settings that are NaN, children that are listed but not registered, attributes that contradict the weights,
            and parts of other classes than a bound rests on. Classes whose methods were replaced since lipnet was
            imported are refused, too, and so are global hooks and active modes of torch, which may change every
            operation.
    """
    functions, operators = _get_current_function_mode_stack(), _get_current_dispatch_mode_stack()  # type: ignore[no-untyped-call]
    for mode in (*functions, *operators):
        if type(mode) is not DeviceContext:  # of torch.device(...) as a context
            raise ValueError(
                f"{type(mode).__name__} is active, a mode of torch that may change what every operation computes; "
                "leave its context first"
            )
    if torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks:
        raise ValueError("there are global forward hooks, which may change what every module computes; remove them")
    for path, module in model.named_modules():
        check_module(path, module)
    _check_in_place("", model, shared=False)


def check_module(path: str, module: nn.Module) -> None:
    """Check one module without its children; arguments and errors as for `check_computes_as_declared`."""
    name = describe(path, module)
    _check_state(name, module)
    _check_calls(name, module)
    _check_numbers(name, module)
    _check_children(name, module)
    if isinstance(module, LipschitzModule):
        try:
            # Those of all classes: the check of a subclass need not call that of the class whose bound it inherits.
            for cls in type(module).__mro__:
                if issubclass(cls, LipschitzModule) and "check" in vars(cls):
                    cls.check(module)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _check_state(name: str, module: nn.Module) -> None:
    """Refuse compiled modules, training mode, hooks, and parametrizations without a rule."""
    if "_orig_mod" in module._modules:
        raise ValueError(
            f"{name} is compiled by torch.compile, whose kernels no bound covers; certify the module itself, "
            "which the compiled one holds as _orig_mod"
        )
    if module.training:
        raise ValueError(f"{name} is in training mode, which no bound covers; call model.eval() first")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{name} has forward hooks, which may change what it computes; remove them first")
    if hasattr(module, "parametrizations") and find_rule(module) is None:
        raise ValueError(f"{name} is parametrized in a way that no rule covers; {MERGE}")


def _check_calls(name: str, module: nn.Module) -> None:
    """Refuse methods that an instance replaces, and calls that a subclass overrides without their answers."""
    own = [
        key
        for key, value in vars(module).items()
        if value is not None and (key in CALLS or callable(getattr(type(module), key, None)))
    ]
    if own:
        raise ValueError(
            f"{name} has a {own[0]} of its own instead of its class's, from module.compile() or an assignment, which "
            f"no bound covers: define {own[0]} and its bound in a class"
        )
    found = find_rule(module)
    if found is not None:
        replaced = found.replaced()
        if replaced is not None:
            raise ValueError(
                f"{name}: the class was changed after its rule was registered, which voids the rule: {replaced} is "
                "another one now"
            )
    elif isinstance(module, WatchedModule):
        replaced = replaced_in_bases(module)
        if replaced is not None:
            raise ValueError(f"{name}: {replaced} was replaced at runtime, so that no bound covers it; restore it")
        for answer in _answers_in_use(module) if isinstance(module, LipschitzModule) else ():
            changed = _overridden_below(type(module), answer)
            if changed is not None:
                raise ValueError(
                    f"{name} overrides {changed} below the class that defines {answer}(): the bound is that of "
                    f"another function; define {answer}() in {type(module).__name__}, too"
                )


def _answers_in_use(module: LipschitzModule) -> Iterator[str]:
    """Yield the names of the answers that certificates of this module use."""
    yield "lipschitz_bound" if module.children_in_order() is None else "children_in_order"
    for answer in ("rounding_step", "pairwise_lipschitz"):
        if getattr(type(module), answer) is not getattr(LipschitzModule, answer):
            yield answer


def _overridden_below(cls: type[nn.Module], answer: str) -> str | None:
    """Return a method that a class overrides without defining the answer about it, or None.

    A class and its bases form a line, the method resolution order, from the subclass up to nn.Module. Classes in front
    of the one that defines the answer are below it: an override there makes the answer wrong. A ``forward`` below an
    abstract class, which has none, is not an override. lipnet's own classes may override: lipnet's tests cover them.
    """
    order = cls.__mro__[: cls.__mro__.index(nn.Module) + 1]
    defining = next(place for place, each in enumerate(order) if answer in vars(each))
    helper = _overridden_helper(order, defining)
    if helper is not None:
        return helper
    for call in CALLS:
        places = [place for place, each in enumerate(order) if call in vars(each)]
        if call == "forward":
            places = places[:-1]  # The last one is nn.Module's own, which only raises an error.
        if len(places) > 1 and places[0] < defining and not order[places[0]].__module__.startswith("lipnet."):
            return call
    return None


def _overridden_helper(order: tuple[type, ...], defining: int) -> str | None:
    """Return a method or attribute of a lipnet class that a user's subclass overrides, or None: the bound may use it.

    Abstract methods do not count: they are there to be defined.

    Args:
        order: the method resolution order up to nn.Module.
        defining: position of the class that defines the answer; only classes in front of it are checked.
    """
    for place, each in enumerate(order[:defining]):
        for name in () if each.__module__.startswith("lipnet.") else vars(each):
            if name in _COMPUTES_NOTHING or name.startswith("__") or name in (*CALLS, *_ANSWERS):
                continue
            above = [
                vars(base)[name]
                for base in order[place + 1 :]
                if name in vars(base) and base.__module__.startswith("lipnet.")
            ]
            if above and not getattr(above[0], "__isabstractmethod__", False):
                return name
    return None


def _check_children(name: str, module: nn.Module) -> None:
    """Refuse listed children that are not registered: neither these checks nor `explicit_arithmetic` would see them."""
    found = find_rule(module)
    parts = [] if found is None else found.parts(module)
    listed = [*(children_in_order(module) or ()), *parts]
    registered = set(module.modules())
    for child, each in listed:
        if not isinstance(each, nn.Module) or each not in registered:
            raise ValueError(
                f"{name} lists {child} ({type(each).__name__}), which is not among its registered modules; assign it "
                "as an attribute, or keep it in an nn.ModuleList"
            )


def _check_numbers(name: str, module: nn.Module) -> None:
    """Refuse weights that are not plain real tensors, and settings that are NaN."""
    attributes = [
        (key, each)
        for key, value in vars(module).items()
        for each in (value if isinstance(value, list | tuple) else (value,))
    ]
    tensors = [
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
        *((key, each) for key, each in attributes if isinstance(each, Tensor)),
    ]
    for key, tensor in tensors:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if not plain or tensor.is_quantized or tensor.is_nested:
            raise ValueError(
                f"{name} has {key} of type {type(tensor).__name__}, {tensor.layout}; plain tensors are needed"
            )
        if tensor.is_meta:
            raise ValueError(f"{name} has {key} on the meta device, without values; load or initialise the model first")
        if tensor.is_complex():
            raise ValueError(f"{name} has {key} of dtype {tensor.dtype}; real numbers are needed")
    for key, each in attributes:
        if _is_nan(each):
            raise ValueError(f"{name} has the setting {key}={vars(module)[key]}; numbers are needed")


def _is_nan(value: object) -> bool:
    """Tell whether a setting is NaN: a number of any kind, also numpy's, or a tensor, which torch takes for one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(value.isnan())
    # No NaN equals itself.
    return isinstance(value, Number) and bool(value != value)


def _check_in_place(path: str, module: nn.Module, shared: bool) -> None:
    """Refuse ``inplace=True`` wherever the input may be read again: everywhere except in plain chains of modules.

    Args:
        path: path of the module in the model.
        module: the module to check, with its children.
        shared: True if a module around this one may read its input again.
    """
    if shared and getattr(module, "inplace", False):
        raise ValueError(
            f"{describe(path, module)} works in place on an input that the module around it may read again; "
            "use inplace=False"
        )
    chain = children_in_order(module) is not None
    for name, child in module._modules.items():
        if child is not None:
            _check_in_place(join(path, name), child, shared or not chain)
