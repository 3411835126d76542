"""An upper bound on the Lipschitz constant of a model, by a rule for each kind of module."""

from collections.abc import Callable
from fractions import Fraction
from math import inf, isfinite, prod, sqrt

from torch import Tensor, nn

from lipnet.functional import product_up, reshaped_filters, round_up, spectral_norm_bound, square_root_up
from lipnet.layers.residual import Residual

Rule = Callable[[nn.Module], float]

# Room for the rounding of a product of a few floats.
_ROUNDING = 1 + 1e-10


def lipschitz_bound(model: nn.Module) -> float:
    """An upper bound on the Lipschitz constant of ``model`` (L2 to L2), from its inputs to its outputs.

    Modules that answer ``lipschitz_bound()`` themselves are asked; modules of torch have a rule here, found by their
    exact class; an ``nn.Sequential`` multiplies, a `lipnet.layers.Residual` adds. A module without any of these is an
    error: nothing is ever taken for 1.

    Args:
        model: in evaluation mode.

    Returns:
        A float >= the true constant in exact arithmetic; infinite if weights are not finite.

    Raises:
        TypeError: names the module that has no rule.
        ValueError: names the module that runs in a way no rule covers: training mode, hooks, parametrizations, or a
            setting of its own.

    Example:
        >>> lipschitz_bound(nn.Sequential(nn.Flatten(), nn.ReLU()).eval())
        1.0
    """
    check_running(model)
    return bound_of("", model)


def check_running(model: nn.Module) -> None:
    """Refuse a model that computes something else than its modules' rules say; errors as in `lipschitz_bound`."""
    for path, module in model.named_modules():
        _check_module(path, module)


def _check_module(path: str, module: nn.Module) -> None:
    name = f"{path or 'the model'} ({type(module).__name__})"
    if module.training:
        raise ValueError(f"{name} is in training mode, which no bound covers; call model.eval() first")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{name} has forward hooks, which may change what it computes; remove them first")
    if hasattr(module, "parametrizations"):
        raise ValueError(f"{name} is parametrized, for which there is no rule; remove the parametrization first")


def children_in_order(path: str, module: nn.Module) -> list[tuple[str, nn.Module]] | None:
    """The paths and modules that run one after another and nothing else; None for what is no such sequence."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return None
    # Not named_children(), which leaves out a module that occurs, and so runs, a second time.
    children = zip(module._modules, module, strict=True)
    return [(f"{path}.{name}".strip("."), child) for name, child in children]


def bound_of(path: str, module: nn.Module) -> float:
    """The bound of a module that errors name by its path; see `lipschitz_bound`."""
    children = children_in_order(path, module)
    if children is not None:
        return product_up(bound_of(*child) for child in children)
    if type(module) is Residual:
        body = bound_of(f"{path}.body".strip("."), module.body)
        if not isfinite(body):
            return inf
        return round_up(Fraction(abs(module.skip)) + Fraction(abs(module.branch)) * Fraction(body))
    own = getattr(module, "lipschitz_bound", None)
    if callable(own):
        return float(own())
    rule = _RULES.get(type(module))
    if rule is None:
        raise TypeError(
            f"{path or 'the model'} ({type(module).__name__}) has no rule for its Lipschitz bound: give it a method "
            "lipschitz_bound(), or use a module that has a rule"
        )
    try:
        return rule(module)
    except ValueError as error:
        raise ValueError(f"{path or 'the model'}: {error}") from error


def _one(module: nn.Module) -> float:
    return 1.0


def _linear(module: nn.Module) -> float:
    assert isinstance(module, nn.Linear)
    return spectral_norm_bound(module.weight)


def _conv2d(module: nn.Module) -> float:
    """sqrt(kh kw) times the norm of a reshaped filter: for every stride and dilation, which only leave rows out or move
    taps apart."""
    assert isinstance(module, nn.Conv2d)
    if module.padding_mode not in ("zeros", "circular"):
        raise ValueError(f"Conv2d has padding_mode {module.padding_mode!r}; the rule covers 'zeros' and 'circular'")
    if module.padding_mode == "circular" and _repeats_pixels(module):
        raise ValueError(
            f"Conv2d has circular padding {module.padding} for a kernel of {module.kernel_size}, which repeats pixels; "
            "the rule covers up to dilation * (kernel_size - 1) / 2"
        )
    norms = [min(map(spectral_norm_bound, matrices)) for matrices in _reshaped(module.weight, module.groups)]
    return product_up([max(norms), sqrt(prod(module.kernel_size)) * _ROUNDING])


def _repeats_pixels(module: nn.Conv2d) -> bool:
    if isinstance(module.padding, str):
        return False
    sizes = zip(module.padding, module.dilation, module.kernel_size, strict=True)
    return any(2 * padding > dilation * (kernel - 1) for padding, dilation, kernel in sizes)


def _reshaped(weight: Tensor, groups: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Three of the 'fantastic four' matrices of each group: (o; i a b), (i; o a b) and (o a; i b)."""
    flat, blocked = reshaped_filters(weight, groups)
    taps = prod(weight.shape[-2:])
    transposed = flat.reshape(groups, flat.shape[1], -1, taps).transpose(1, 2).flatten(2)
    return list(zip(flat, transposed, blocked, strict=True))


def _leaky_relu(module: nn.Module) -> float:
    assert isinstance(module, nn.LeakyReLU)
    return max(1.0, abs(module.negative_slope))


def _avg_pool2d(module: nn.Module) -> float:
    """A mean of n pixels is the product with a vector of length 1 / sqrt(n); windows that do not overlap share none."""
    assert isinstance(module, nn.AvgPool2d)
    if module.stride != module.kernel_size or module.padding not in (0, (0, 0)):
        raise ValueError(f"{module} has windows that overlap, have gaps or are padded, for which there is no rule")
    if module.ceil_mode or module.divisor_override is not None:
        raise ValueError(f"{module} has ceil_mode or divisor_override, for which there is no rule")
    return square_root_up(Fraction(1, window_of(module)))


def window_of(module: nn.AvgPool2d) -> int:
    """How many pixels are averaged."""
    size = module.kernel_size
    return size * size if isinstance(size, int) else prod(size)


def _adaptive_avg_pool2d(module: nn.Module) -> float:
    assert isinstance(module, nn.AdaptiveAvgPool2d)
    if module.output_size not in (1, (1, 1)):
        raise ValueError(f"{module} has windows that may overlap; the rule covers an output of 1 x 1")
    return 1.0


def _max_pool2d(module: nn.Module) -> float:
    assert isinstance(module, nn.MaxPool2d)
    if module.stride != module.kernel_size or module.dilation not in (1, (1, 1)):
        raise ValueError(f"{module} has windows that overlap or have gaps, for which there is no rule")
    if module.return_indices:
        raise ValueError(f"{module} returns indices, for which there is no rule")
    return 1.0


_RULES: dict[type[nn.Module], Rule] = {
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    nn.AvgPool2d: _avg_pool2d,
    nn.Conv2d: _conv2d,
    nn.Dropout: _one,
    nn.Flatten: _one,
    nn.Identity: _one,
    nn.LeakyReLU: _leaky_relu,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool2d,
    nn.PixelShuffle: _one,
    nn.PixelUnshuffle: _one,
    nn.ReLU: _one,
    nn.ChannelShuffle: _one,
    nn.Tanh: _one,
}
