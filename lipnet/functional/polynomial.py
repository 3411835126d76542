"""Polynomials of a skew convolution, with a backward pass of their own."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lipnet.functional.autocast import autocast_dtype
from lipnet.functional.constants import traced_as_constant
from lipnet.functional.operators import ConvolutionOperator, convolution_operator

# Maps of so many bytes are worth the time of a convolution.
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
    kept: Sequence[Tensor] = (),
) -> Tensor:
    """p(J) x = sum_k c_k J^k x, where J is the 'same' convolution with a skew filter: J^T = -J.

    Without gradients by Horner's rule. With gradients as a product of real factors, J + r and J^2 + u J + v, which
    takes fewer passes over the maps: J + u is a convolution as J is, so that only v has to be added. The adjoint of
    each factor is again such a factor, with the same filter. What is kept for the backward pass are the maps that were
    convolved, and no graph; of maps of 8 MiB and more, the last is convolved again.

    Args:
        x: maps (B, c, H, W).
        weight: skew filter (c, c/groups, kh, kw), odd kh and kw, as `skew_filter` makes it. The value is p(J) x for any
            filter; the gradients are those at a skew one.
        coefficients: c_0, ..., c_n of p, n >= 1, c_n not 0. A leading coefficient of 1 saves a pass over the maps.
        groups: number of groups of the convolution.
        padding_mode: ``"zeros"`` or ``"circular"``.
        channels: how many of the result's channels are wanted, the first ones; the others are computed only as far as
            these depend on them.
        recompute: keep only x, and convolve again in the backward pass.
        kept: what `operator_tensors` made of the filter, to spare making it again where no gradients are needed.

    Returns:
        Maps (B, channels or c, H, W), differentiable once in x and in the filter.

    Raises:
        ValueError: for another padding mode, for fewer than two coefficients, and if the last is 0.
        RuntimeError: in the backward pass, if it is differentiated itself.

    Example:
        >>> rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).view(2, 2, 1, 1)
        >>> skew_polynomial(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), rotation, (1.0, 1.0, 0.5)).flatten()
        tensor([ 0.5000, -1.0000])
    """
    if len(coefficients) < 2 or coefficients[-1] == 0:
        raise ValueError(f"a polynomial of degree 1 or more is needed, got the coefficients {coefficients}")
    dtype = autocast_dtype(x.device)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    wanted = channels if channels is not None and channels < x.shape[1] else None
    setting = _Setting(tuple(coefficients), groups, padding_mode, recompute, wanted)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        result: Tensor = _Polynomial.apply(x, weight, setting)[0]
        return result
    return _horner(convolution_operator(x, weight, groups, padding_mode, kept), x, setting)


class _Setting(NamedTuple):
    coefficients: tuple[float, ...]
    groups: int
    padding_mode: str
    recompute: bool
    channels: int | None  # None: all

    @property
    def ends_with_some(self) -> bool:
        """Whether the last convolution needs to compute only the channels that are wanted."""
        return self.channels is not None and self.groups == 1


def _horner(operator: ConvolutionOperator, maps: Tensor, setting: _Setting) -> Tensor:
    lowest, *lower, leading = setting.coefficients
    x = operator.enter(maps)
    state = x if leading == 1 else x * leading
    for coefficient in reversed(lower):
        state = operator.apply(state).add_(x, alpha=coefficient)
    if setting.channels is not None and setting.ends_with_some:
        return operator.apply_first(state, 0.0, setting.channels).add_(maps[:, : setting.channels], alpha=lowest)
    return operator.leave(operator.apply(state).add_(x, alpha=lowest))[:, : setting.channels]


# A shift and a constant: K (K + shift) + constant, or K + shift if the constant is None. Plain tuples, as not every
# release's compiler knows others.
_Factor = tuple[float, float | None]


@traced_as_constant
def _factors(coefficients: tuple[float, ...]) -> tuple[_Factor, ...]:
    """A compiler takes the factors for constants, which they are, instead of tracing how they are found."""
    return _real_factors(coefficients)


@lru_cache(maxsize=1024)
def _real_factors(coefficients: tuple[float, ...]) -> tuple[_Factor, ...]:
    """The real factors of the polynomial divided by its leading coefficient."""
    monic = torch.tensor(coefficients[:-1], dtype=torch.float64) / coefficients[-1]
    companion = torch.diag(torch.ones(len(monic) - 1, dtype=torch.float64), diagonal=-1)
    companion[:, -1] = -monic
    roots = [complex(root) for root in torch.linalg.eigvals(companion)]
    # The library returns the eigenvalues of a real matrix in exactly conjugate pairs.
    quadratic: list[_Factor] = [(-2 * root.real, abs(root) ** 2) for root in roots if root.imag > 0]
    return (*quadratic, *((-root.real, None) for root in roots if root.imag == 0))


def _product(operator: ConvolutionOperator, x: Tensor, setting: _Setting) -> tuple[Tensor, list[Tensor]]:
    """The channels of p(K) x that are wanted (B, channels, H, W), and the maps that were convolved, in this order."""
    leading = setting.coefficients[-1]
    state = x if leading == 1 else x * leading
    convolved = []
    factors = _factors(setting.coefficients)
    for number, (shift, constant) in enumerate(factors, start=1):
        convolved.append(state)
        if constant is None and number == len(factors) and setting.channels is not None and setting.ends_with_some:
            return operator.apply_first(state, shift, setting.channels), convolved
        shifted = operator.apply(state, shift)
        if constant is None:
            state = shifted
        else:
            convolved.append(shifted)
            state = operator.apply(shifted).add_(state, alpha=constant)
    return operator.leave(state)[:, : setting.channels], convolved


def _number_kept(x: Tensor, setting: _Setting) -> int:
    """How many of the maps that are convolved after x are kept for the backward pass."""
    number = len(setting.coefficients) - 2
    if setting.recompute:
        return 0
    return number - 1 if number > 1 and x.numel() * x.element_size() >= _LARGE else number


def _last_convolved(operator: ConvolutionOperator, convolved: Sequence[Tensor], setting: _Setting) -> Tensor:
    """The last of the maps that are convolved, from those before it."""
    factors = _factors(setting.coefficients)
    shift, constant = factors[-1]
    if constant is not None:
        return operator.apply(convolved[-1], shift)
    shift, constant = factors[-2]
    if constant is None:
        return operator.apply(convolved[-1], shift)
    return operator.apply(convolved[-1]).add_(convolved[-2], alpha=constant)


def _product_adjoint(
    operator: ConvolutionOperator,
    gradient: Tensor,
    setting: _Setting,
    convolved: list[Tensor],
    needed: tuple[bool, bool],
) -> Tensor:
    """p(K)^T gradient, if that is needed, with K^T = -K; what the filter receives, if needed, is collected.

    The maps are taken off the list, so that each can be freed as soon as it has been used.
    """
    x_too, filter_too = needed
    factors = _factors(setting.coefficients)

    def collect(gradient: Tensor, sign: int) -> None:
        maps = convolved.pop()
        if filter_too:
            operator.collect(maps, gradient, sign)

    if not (setting.ends_with_some and factors[-1][1] is None):
        gradient = operator.enter(_with_zeros(gradient, operator.weight.shape[0]))
    for number, (shift, constant) in reversed(list(enumerate(factors))):
        wanted = x_too or number > 0
        collect(gradient, 1)
        if constant is not None:
            # y = K s + constant x with s = (K + shift) x: s receives -K gradient.
            power = operator.apply(gradient)
            collect(power, -1)
            if wanted:
                gradient = operator.apply(power, -shift).add_(gradient, alpha=constant)
        elif wanted and number == len(factors) - 1 and setting.ends_with_some:
            gradient = operator.apply_to_first(gradient, shift)
        elif wanted:
            gradient = operator.apply(gradient, shift, sign=-1)
    leading = setting.coefficients[-1]
    return gradient if leading == 1 else gradient * leading


def _with_zeros(maps: Tensor, channels: int) -> Tensor:
    missing = channels - maps.shape[1]
    return F.pad(maps, (0, 0, 0, 0, 0, missing)) if missing > 0 else maps


class _Polynomial(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, setting: _Setting) -> tuple[Tensor, ...]:
        operator = convolution_operator(x, weight, setting.groups, setting.padding_mode)
        result, convolved = _product(operator, operator.enter(x), setting)
        if setting.recompute:
            return (result,)
        # x itself is no output; in a layout of its own it is, and spares the backward pass the conversion.
        first = 0 if convolved[0].is_mkldnn and setting.coefficients[-1] == 1 else 1
        return result, *convolved[first : 1 + _number_kept(x, setting)], *operator.kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Setting], output: tuple[Tensor, ...]) -> None:
        x, weight, ctx.setting = inputs
        ctx.number = _number_kept(x, ctx.setting)
        kept = output[1:]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        if not (kept and kept[0].is_mkldnn and ctx.setting.coefficients[-1] == 1):
            kept = (x, *kept)
        ctx.save_for_backward(weight, *kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None
        needed = ctx.needs_input_grad[:2]
        # A function within another's backward pass is more than compilers trace in every release.
        adjoint = _Adjoint.forward if torch.compiler.is_compiling() else _Adjoint.apply
        gradients = adjoint(gradient, ctx.setting, needed, ctx.number, *ctx.saved_tensors)
        return *(each if need else None for each, need in zip(gradients, needed, strict=True)), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, setting: _Setting
    ) -> tuple[tuple[Tensor], tuple[int]]:
        fold = _Fold(info.batch_size, as_groups=in_dims[1] is not None)
        maps, filters = fold.maps(x, in_dims[0]), fold.filters(weight, in_dims[1])
        result = fold.unfold_maps(_Polynomial.apply(maps, filters, fold.setting(setting))[0])
        return (result[:, :, : setting.channels],), (0,)


class _Adjoint(torch.autograd.Function):
    """The gradients of x and of the filter, a function of its own so that a batch of gradients can be mapped over.

    What follows the filter: x, as many of the maps that were convolved after it as the number says, and unless all is
    to be computed again, the operator's own tensors.
    """

    @staticmethod
    def forward(
        gradient: Tensor, setting: _Setting, needed: tuple[bool, bool], number: int, weight: Tensor, *kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, *maps = kept[: 1 + number]
        degree, leading = len(setting.coefficients) - 1, setting.coefficients[-1]
        operator = convolution_operator(gradient, weight, setting.groups, setting.padding_mode, kept[1 + number :])
        entered = operator.enter(x)
        if maps or degree == 1:
            convolved = [entered if leading == 1 else entered * leading, *map(operator.enter, maps)]
            if len(convolved) < degree:
                convolved.append(_last_convolved(operator, convolved, setting))
        else:
            convolved = _product(operator, entered, setting)[1]
        del maps, kept
        result = _product_adjoint(operator, gradient, setting, convolved, needed)
        nothing = gradient.new_empty(())
        return (
            operator.leave(result) if needed[0] else nothing,
            operator.filter_gradient() if needed[1] else nothing,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("trying to differentiate twice a function that can be differentiated once")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        gradient: Tensor,
        setting: _Setting,
        needed: tuple[bool, bool],
        number: int,
        weight: Tensor,
        x: Tensor,
        *kept: Tensor,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
        # Every element of the batch has a gradient of the filter of its own, so the filters are batched if one is
        # needed.
        weight_dim, x_dim = in_dims[4:6]
        fold = _Fold(info.batch_size, as_groups=needed[1] or weight_dim is not None)
        channels = weight.shape[1 if weight_dim == 0 else 0]
        batched = gradient.movedim(in_dims[0], 0) if in_dims[0] is not None else gradient.unsqueeze(0)
        gradient = torch.unflatten(_with_zeros(batched.flatten(0, 1), channels), 0, batched.shape[:2])
        x_gradient, weight_gradient = _Adjoint.apply(
            fold.maps(gradient if in_dims[0] is not None else gradient[0], None if in_dims[0] is None else 0),
            fold.setting(setting),
            needed,
            0,
            fold.filters(weight, weight_dim),
            fold.maps(x.to_dense() if x.is_mkldnn else x, x_dim),
        )
        return (
            fold.unfold_maps(x_gradient) if needed[0] else x_gradient,
            torch.unflatten(weight_gradient, 0, (info.batch_size, -1)) if needed[1] else weight_gradient,
        ), (0 if needed[0] else None, 0 if needed[1] else None)


class _Fold:
    """A batch of polynomials as one: as more maps if they share the filter, as more groups if they do not."""

    def __init__(self, size: int, as_groups: bool) -> None:
        self.size, self.as_groups = size, as_groups

    def maps(self, maps: Tensor, dim: int | None) -> Tensor:
        batched = maps.expand(self.size, *maps.shape) if dim is None else maps.movedim(dim, 0)
        return batched.transpose(0, 1).flatten(1, 2) if self.as_groups else batched.flatten(0, 1)

    def unfold_maps(self, maps: Tensor) -> Tensor:
        unfolded: Tensor = torch.unflatten(maps, 1 if self.as_groups else 0, (self.size, -1))
        return unfolded.transpose(0, 1) if self.as_groups else unfolded

    def filters(self, weight: Tensor, dim: int | None) -> Tensor:
        if not self.as_groups:
            return weight
        return (weight.expand(self.size, *weight.shape) if dim is None else weight.movedim(dim, 0)).flatten(0, 1)

    def setting(self, setting: _Setting) -> _Setting:
        """The setting of the whole, with all channels."""
        return setting._replace(groups=setting.groups * (self.size if self.as_groups else 1), channels=None)
