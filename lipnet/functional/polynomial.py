"""Polynomials of a skew convolution applied to feature maps, with a memory-saving backward pass."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.autocast import autocast_dtype
from lipnet.functional.constants import traced_as_constant
from lipnet.functional.forms import Direct, Products, convolution_form
from lipnet.functional.transforms import add_scaled_

# From this size in bytes on, saving feature maps costs more than convolving once more.
_LARGE = 2**23


def skew_polynomial(
    x: Tensor,
    weight: Tensor,
    coefficients: Sequence[float],
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    channels: int | None = None,
    recompute: bool = False,
    matrices: Tensor | None = None,
) -> Tensor:
    """Return p(J) x = sum_k c_k J^k x, where J is the 'same' convolution with a skew filter: J^T = -J.

    Without gradients: Horner's rule. With gradients: the product of p's real factors J + r and J^2 + u J + v, which
    needs fewer passes over the feature maps, since J + u is a convolution too. The adjoint of each factor is again such
    a factor with the same filter, so the input of each convolution is saved for backward, and no graph. If the maps
    take 8 MiB or more, the last input is recomputed instead.

    Args:
        x: feature maps (B, c, H, W).
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw, from `skew_filter`. The value is p(J) x for any
            filter; the gradients are correct at a skew one.
        coefficients: c_0, ..., c_n of p, n >= 1, c_n not 0. A leading coefficient of 1 saves a pass over the maps.
        groups: number of groups of the convolution.
        padding_mode: ``"zeros"`` or ``"circular"``.
        channels: number of channels to return, the first ones; None for all. Others are computed only if these need
            them.
        recompute: save only x for backward, and recompute the other inputs there.
        matrices: result of `form_matrices` for this weight and map size; used without gradients and autocast.

    Returns:
        Feature maps (B, channels or c, H, W), differentiable once in x and in the filter.

    Raises:
        ValueError: for another padding mode, for fewer than two coefficients, and if the last is 0.
        RuntimeError: in the backward pass, if it is differentiated itself.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> skew_polynomial(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), rotation, (1.0, 1.0, 0.5)).flatten()
        tensor([ 0.5000, -1.0000])
    """
    if len(coefficients) < 2 or coefficients[-1] == 0:
        raise ValueError(f"coefficients must be at least two, the last one not 0, got {coefficients}")
    dtype = autocast_dtype(x.device)
    if dtype is not None:
        x, weight, matrices = x.to(dtype), weight.to(dtype), None
    first = channels if channels is not None and channels < x.shape[1] else None
    setting = _Setting(tuple(coefficients), groups, padding_mode, recompute, first)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        result: Tensor = _Polynomial.apply(x, weight, setting)
        return result[:, :first] if first is not None and result.shape[1] != first else result
    return _horner(convolution_form(x, weight, groups, padding_mode, matrices), x, setting)


class _Setting(NamedTuple):
    """Arguments of `skew_polynomial`."""

    coefficients: tuple[float, ...]
    groups: int
    padding_mode: str
    recompute: bool
    channels: int | None  # None: all


# A shift and a constant: J (J + shift) + constant, or J + shift if the constant is None. A plain tuple, because the
# compilers of some torch releases do not know others.
_Factor = tuple[float, float | None]


def _horner(form: Direct | Products, maps: Tensor, setting: _Setting) -> Tensor:
    """Return p(J) maps as (B, channels, H, W), by Horner's rule."""
    lowest, *lower, leading = setting.coefficients
    x = form.enter(maps)
    state = x if leading == 1 else x * leading
    for coefficient in reversed(lower):
        state = add_scaled_(form.apply(state), x, coefficient)
    if setting.channels is not None and setting.groups == 1:
        return add_scaled_(form.apply_first(state, 0.0, setting.channels), maps[:, : setting.channels], lowest)
    return form.leave(add_scaled_(form.apply(state), x, lowest))[:, : setting.channels]


class _Polynomial(torch.autograd.Function):
    """p(J) x as a product of factors. It has the first channels only if the last factor computes no others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, setting: _Setting) -> Tensor:
        form = convolution_form(x, weight, setting.groups, setting.padding_mode)
        result, convolved = _product(form, form.enter(x), setting)
        ctx.setting, ctx.number = setting, _number_saved(x, setting)
        if setting.recompute:
            ctx.save_for_backward(weight, x)
        else:
            # Save the copy of x in another layout if there is one, so that backward does not convert it again.
            first = convolved[0] if convolved[0].dim() == 4 and setting.coefficients[-1] == 1 else x
            ctx.save_for_backward(weight, first, *convolved[1 : 1 + ctx.number], *form.saved)
        # Autograd refuses in-place changes of a view that a custom function returns; compilers do not.
        return result.clone() if not torch.compiler.is_compiling() and result._is_view() else result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        setting: _Setting = ctx.setting
        weight, x, *saved = ctx.saved_tensors
        matrices = next(iter(saved[ctx.number :]), None)
        form = convolution_form(gradient, weight, setting.groups, setting.padding_mode, matrices)
        convolved = _convolved(form, x, saved[: ctx.number], setting)
        del x, saved  # so that `_product_adjoint` can free the maps one by one
        x_too, filter_too = ctx.needs_input_grad[:2]
        result = _product_adjoint(form, gradient, setting, convolved, x_too, filter_too)
        return form.leave(result) if x_too else None, form.filter_gradient() if filter_too else None, None


def _product(form: Direct | Products, x: Tensor, setting: _Setting) -> tuple[Tensor, list[Tensor]]:
    """Return p(J) x as (B, channels, H, W), and the input of each convolution in turn."""
    leading = setting.coefficients[-1]
    state = x if leading == 1 else x * leading
    convolved = []
    for shift, constant, short in _steps(setting):
        convolved.append(state)
        if short is not None:
            return form.apply_first(state, shift, short), convolved
        shifted = form.apply(state, shift)
        if constant is None:
            state = shifted
        else:
            convolved.append(shifted)
            state = add_scaled_(form.apply(shifted), state, constant)
    return form.leave(state), convolved


def _convolved(form: Direct | Products, x: Tensor, saved: Sequence[Tensor], setting: _Setting) -> list[Tensor]:
    """Return the inputs of the convolutions in `_product`: the saved ones, and those that must be recomputed."""
    degree, leading = len(setting.coefficients) - 1, setting.coefficients[-1]
    entered = form.enter(x)
    if not saved and degree > 1:
        return _product(form, entered, setting)[1]
    convolved = [entered if leading == 1 else entered * leading, *map(form.enter, saved)]
    if len(convolved) == degree:
        return convolved
    (*_, (before, quadratic), (shift, constant)) = _factors(setting.coefficients)
    if constant is not None:
        last = form.apply(convolved[-1], shift)
    elif quadratic is None:
        last = form.apply(convolved[-1], before)
    else:
        last = add_scaled_(form.apply(convolved[-1]), convolved[-2], quadratic)
    return [*convolved, last]


def _product_adjoint(
    form: Direct | Products, gradient: Tensor, setting: _Setting, convolved: list[Tensor], x_too: bool, filter_too: bool
) -> Tensor:
    """Return p(J)^T gradient, with J^T = -J, if x needs it, and collect the filter's gradient if that is needed.

    Each map is popped off the list, so that its memory is freed after use.
    """

    def collect(gradient: Tensor, sign: int) -> None:
        maps = convolved.pop()
        if filter_too:
            form.collect(maps, gradient, sign)

    steps = _steps(setting)
    if steps[-1][2] is None:
        gradient = form.enter(gradient)
    for number, (shift, constant, short) in reversed(list(enumerate(steps))):
        wanted = x_too or number > 0
        collect(gradient, 1)
        if constant is not None:
            # y = J s + constant x with s = (J + shift) x, so s receives -J gradient.
            image = form.apply(gradient)
            collect(image, -1)
            if wanted:
                gradient = add_scaled_(form.apply(image, -shift), gradient, constant)
        elif wanted and short is not None:
            gradient = form.apply_to_first(gradient, shift)
        elif wanted:
            gradient = form.apply(gradient, shift, sign=-1)
    leading = setting.coefficients[-1]
    return gradient if leading == 1 else gradient * leading


def _number_saved(x: Tensor, setting: _Setting) -> int:
    """Return the number of maps besides x that are saved for backward."""
    if setting.recompute:
        return 0
    number = len(setting.coefficients) - 2
    return number - 1 if number > 1 and x.numel() * x.element_size() >= _LARGE else number


def _steps(setting: _Setting) -> list[tuple[float, float | None, int | None]]:
    """Return the factors, each with the number of channels that it computes, None for all."""
    steps: list[tuple[float, float | None, int | None]] = [(*factor, None) for factor in _factors(setting.coefficients)]
    shift, constant, _ = steps[-1]
    if constant is None and setting.groups == 1:
        steps[-1] = (shift, None, setting.channels)
    return steps


@traced_as_constant
def _factors(coefficients: tuple[float, ...]) -> tuple[_Factor, ...]:
    """Return `_real_factors`, which compilers take as constants instead of tracing the function."""
    return _real_factors(coefficients)


@lru_cache(maxsize=1024)
def _real_factors(coefficients: tuple[float, ...]) -> tuple[_Factor, ...]:
    """Return the real factors of the polynomial after division by its leading coefficient."""
    monic = torch.tensor(coefficients[:-1], dtype=torch.float64) / coefficients[-1]
    companion = torch.diag(torch.ones(len(monic) - 1, dtype=torch.float64), diagonal=-1)
    companion[:, -1] = -monic
    roots = [complex(root) for root in torch.linalg.eigvals(companion)]
    # The eigenvalues of a real matrix come in exactly conjugate pairs.
    quadratic: list[_Factor] = [(-2 * root.real, abs(root) ** 2) for root in roots if root.imag > 0]
    return (*quadratic, *((-root.real, None) for root in roots if root.imag == 0))
