"""Polynomials of a skew convolution, with a backward pass of their own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.operators import ConvolutionOperator, convolution_operator


def skew_polynomial(
    x: Tensor,
    weight: Tensor,
    coefficients: Sequence[float],
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    recompute: bool = False,
) -> Tensor:
    """p(J) x = sum_k c_k J^k x, where J is the 'same' convolution with a skew filter: J^T = -J.

    Horner's rule: s_n = c_n x, s_k = c_k x + J s_{k+1}, and s_0 is the result. A gradient g goes back through the powers
    h_k = J^k g: x receives p(-J) g, and the filter what the pairs (-1)^(k-1) (h_{k-1}, s_k), k = 1, ..., n, give it. So the
    filter itself serves in both directions, and what is kept is x and s_1, ..., s_{n-1}: no graph of the series.

    Args:
        x: maps (B, c, H, W).
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw, as `skew_filter` makes it. The value is p(J) x for any
            filter; the gradients are those at a skew one.
        coefficients: c_0, ..., c_n of p, n >= 1. A leading coefficient of 1 saves a pass over the maps.
        groups: number of groups of the convolution.
        padding_mode: ``"zeros"`` or ``"circular"``.
        recompute: keep only x, and compute s_1, ..., s_{n-1} again in the backward pass.

    Returns:
        Maps (B, c, H, W), differentiable once in x and in the filter.

    Raises:
        ValueError: for another padding mode, and for fewer than two coefficients.
        RuntimeError: in the backward pass, if it is differentiated itself.
    """
    if len(coefficients) < 2:
        raise ValueError(f"a polynomial of degree 1 or more is needed, received {len(coefficients)} coefficients")
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    setting = _Setting(tuple(coefficients), groups, padding_mode, recompute)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        result: Tensor = _Polynomial.apply(x, weight, setting)[0]
        return result
    operator = convolution_operator(x, weight, groups, padding_mode)
    return operator.leave(_horner(operator, operator.enter(x), setting.coefficients)[0])


class _Setting(NamedTuple):
    coefficients: tuple[float, ...]
    groups: int
    padding_mode: str
    recompute: bool


def _horner(
    operator: ConvolutionOperator, x: Tensor, coefficients: Sequence[float], keep: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """s_0, and s_1, ..., s_n if they are to be kept."""
    *lower, leading = coefficients
    state, states = x if leading == 1 else x * leading, []
    for coefficient in reversed(lower):
        if keep:
            states.append(state)
        state = operator.convolve(state).add_(x, alpha=coefficient)
    return state, states[::-1]


class _Polynomial(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, setting: _Setting) -> tuple[Tensor, ...]:
        operator = convolution_operator(x, weight, setting.groups, setting.padding_mode)
        result, states = _horner(operator, operator.enter(x), setting.coefficients, keep=not setting.recompute)
        return operator.leave(result), *states[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Setting], output: tuple[Tensor, ...]) -> None:
        x, weight, ctx.setting = inputs
        states = output[1:]
        ctx.mark_non_differentiable(*states)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, *states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None
        x_gradient, weight_gradient = _Adjoint.apply(
            gradient, *ctx.saved_tensors[:2], ctx.setting, ctx.needs_input_grad[1], *ctx.saved_tensors[2:]
        )
        return x_gradient, weight_gradient if ctx.needs_input_grad[1] else None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, setting: _Setting
    ) -> tuple[tuple[Tensor], tuple[int]]:
        fold = _Fold(info.batch_size, weight_is_batched=in_dims[1] is not None)
        result = _Polynomial.apply(
            fold.maps(x, in_dims[0]), fold.filters(weight, in_dims[1]), fold.setting(setting)
        )[0]
        return (fold.unfold_maps(result),), (0,)


class _Adjoint(torch.autograd.Function):
    """The gradients of x and of the filter, as a function of its own so that it can be mapped over a batch of gradients."""

    @staticmethod
    def forward(
        gradient: Tensor, x: Tensor, weight: Tensor, setting: _Setting, weight_too: bool, *states: Tensor
    ) -> tuple[Tensor, Tensor]:
        coefficients = setting.coefficients
        operator = convolution_operator(x, weight, setting.groups, setting.padding_mode)
        maps = operator.enter(x)
        if weight_too:
            leading = maps if coefficients[-1] == 1 else maps * coefficients[-1]
            kept = [*states, leading] if len(states) == len(coefficients) - 2 else None
            states = tuple(kept or _horner(operator, maps, (0.0, *coefficients[1:]), keep=True)[1])
        power = operator.enter(gradient)
        powers, result = [power], power * coefficients[0]
        for degree, coefficient in enumerate(coefficients[1:], start=1):
            power = operator.convolve(power)
            result.add_(power, alpha=-coefficient if degree % 2 else coefficient)
            powers.append(power)
        weight_gradient = operator.filter_gradient(states, powers[:-1]) if weight_too else weight.new_empty(())
        return operator.leave(result), weight_gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that can be differentiated once")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        setting: _Setting,
        weight_too: bool,
        *states: Tensor,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
        # Every element of the batch has a gradient of the filter of its own, so the filters are batched if one is needed.
        fold = _Fold(info.batch_size, weight_is_batched=weight_too or in_dims[2] is not None)
        x_gradient, weight_gradient = _Adjoint.apply(
            fold.maps(gradient, in_dims[0]),
            fold.maps(x, in_dims[1]),
            fold.filters(weight, in_dims[2]),
            fold.setting(setting),
            weight_too,
        )
        if not weight_too:
            return (fold.unfold_maps(x_gradient), weight_gradient), (0, None)
        return (fold.unfold_maps(x_gradient), weight_gradient.unflatten(0, (info.batch_size, -1))), (0, 0)


class _Fold:
    """A batch of polynomials as one: as more maps if they share the filter, as more groups if they do not."""

    def __init__(self, size: int, weight_is_batched: bool) -> None:
        self.size, self.as_groups = size, weight_is_batched

    def maps(self, maps: Tensor, dim: int | None) -> Tensor:
        batched = maps.expand(self.size, *maps.shape) if dim is None else maps.movedim(dim, 0)
        return batched.transpose(0, 1).flatten(1, 2) if self.as_groups else batched.flatten(0, 1)

    def unfold_maps(self, maps: Tensor) -> Tensor:
        if self.as_groups:
            return maps.unflatten(1, (self.size, -1)).transpose(0, 1)
        return maps.unflatten(0, (self.size, -1))

    def filters(self, weight: Tensor, dim: int | None) -> Tensor:
        if not self.as_groups:
            return weight
        return (weight.expand(self.size, *weight.shape) if dim is None else weight.movedim(dim, 0)).flatten(0, 1)

    def setting(self, setting: _Setting) -> _Setting:
        return setting._replace(groups=setting.groups * self.size) if self.as_groups else setting
