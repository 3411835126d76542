"""Polynomials of a convolution, with a backward pass of their own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.convolution import same_convolution, same_convolution_weight_gradient
from lipnet.functional.skew import transpose_filter


def convolution_polynomial(
    x: Tensor, weight: Tensor, coefficients: Sequence[float], groups: int = 1, padding_mode: str = "zeros"
) -> Tensor:
    """p(J) x = sum_k c_k J^k x, where J is the 'same' convolution with ``weight``.

    Differentiable once, in x and in the weight. With u_k = J^k x, a gradient g goes back by the adjoint recurrence
    a_n = c_n g, a_k = c_k g + J^T a_{k+1}: a_0 belongs to x, and each pair (a_k, u_{k-1}) adds to that of the weight.
    J^T is the convolution with the adjoint filter. Kept for it are x and u_1, ..., u_{n-1}, and nothing else.

    Args:
        x: maps (B, c, H, W).
        weight: filter (c, c/groups, kh, kw), odd kh and kw.
        coefficients: c_0, ..., c_n of p, n >= 1.
        groups: number of groups of the convolution.
        padding_mode: ``"zeros"`` or ``"circular"``.

    Returns:
        Maps (B, c, H, W).

    Raises:
        ValueError: for another padding mode.
        RuntimeError: in the backward pass, if it is differentiated itself.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    result: Tensor = _Polynomial.apply(x, weight, tuple(coefficients), groups, padding_mode)[0]
    return result


class _Polynomial(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, coefficients: tuple[float, ...], groups: int, padding_mode: str
    ) -> tuple[Tensor, ...]:
        result, power, powers = x * coefficients[0], x, []
        for coefficient in coefficients[1:]:
            power = same_convolution(power, weight, groups, padding_mode)
            result = result.add_(power, alpha=coefficient)
            powers.append(power)
        return result, *powers[:-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, *ctx.settings = inputs
        powers = output[1:]
        ctx.mark_non_differentiable(*powers)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, x, *powers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None, None, None
        weight, *powers = ctx.saved_tensors
        coefficients, groups, padding_mode = ctx.settings
        adjoint = transpose_filter(weight, groups)
        state, weight_gradient = gradient * coefficients[-1], None
        for power, coefficient in zip(powers[::-1], coefficients[-2::-1], strict=True):
            if ctx.needs_input_grad[1]:
                part = same_convolution_weight_gradient(power, state, weight, groups, padding_mode)
                weight_gradient = part if weight_gradient is None else weight_gradient.add_(part)
            state = same_convolution(state, adjoint, groups, padding_mode).add_(gradient, alpha=coefficient)
        return state, weight_gradient, None, None, None
