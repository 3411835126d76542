"""Rules of containers, and of torch's linear modules: bound and rounding side by side.

`torch_rules_activations.py`, `torch_rules_batchnorm.py` and `torch_rules_resampling.py` have the rules of torch's
activations, of its batch normalisation, and of pooling, padding and upsampling.
"""

from fractions import Fraction
from math import inf, isfinite, prod, sqrt

from torch import Tensor, nn

from lipnet.certify.rules import Children, Rule, rule
from lipnet.functional import product_up, round_up
from lipnet.functional.norm_bounds import reshaped_filters, spectral_norm_bound
from lipnet.functional.rounding_error import (
    Signal,
    Step,
    absolute_filter_norm,
    absolute_norm,
    accumulated,
    euclidean_norm,
    exact,
    products,
    underflow,
    up,
)
from lipnet.layers.mirror import MirrorAverage
from lipnet.layers.residual import Residual

# Room for the rounding of a product of a few floats.
_ROUNDING = 1 + 1e-10


@rule(nn.Sequential)
class _Sequential(Rule):
    def children_in_order(self, module: nn.Module) -> Children:
        assert isinstance(module, nn.Sequential)
        # named_children() would list a module that occurs twice, and so runs twice, only once.
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
        """Bound two products and a sum for each entry, after the body's own rounding."""
        skip, branch = abs(module.skip), abs(module.branch)
        sizes = skip * signal.computed + branch * signal.after(body, signal.shape).computed
        return Step(
            up(skip * signal.norm + branch * body.norm),
            up(skip + branch * body.gain),
            up(branch * body.error + accumulated(2) * sizes + underflow(signal.entries, 2, skip + branch)),
        )


@rule(MirrorAverage)
class _MirrorAverage(Rule):
    def parts(self, module: nn.Module) -> Children:
        return [("body", module.body)]  # type: ignore[list-item]

    def lipschitz(self, module: MirrorAverage, body: float) -> float:
        return body

    def rounding(self, module: MirrorAverage, signal: Signal, shape: tuple[int, ...], body: Step) -> Step:
        """Bound a sum for each entry after the body's own rounding; halving only rounds where it underflows."""
        computed = signal.after(body, shape).computed
        error = body.error + accumulated(1) * computed + underflow(prod(shape), 2, 1.0)
        return Step(body.norm, body.gain, up(error))


@rule(nn.ChannelShuffle, nn.Dropout, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle, nn.ReLU)
class _Exact(Rule):
    """Modules that move, drop or keep entries: 1-Lipschitz, without rounding."""

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
        # The matrix multiplies each vector along the last dimension, so further dimensions do not change its norm.
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
        return _filter_bound(module.weight, module.groups)

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
        # torch takes circular padding from this private copy, (left, right, top, bottom), not from module.padding.
        padding = module._reversed_padding_repeated_twice
        reach = [dilation * (size - 1) for dilation, size in zip(module.dilation, kernel, strict=True)]
        if any(
            before + after > most for before, after, most in zip(padding[2::-2], padding[3::-2], reach, strict=True)
        ):
            raise ValueError(
                f"Conv2d has circular padding {module.padding} for a kernel of {kernel}, which repeats pixels; "
                "the rule covers up to dilation * (kernel_size - 1) / 2"
            )


@rule(nn.ConvTranspose2d)
class _ConvTranspose2d(Rule):
    """The adjoint of a convolution with the same filter and zero padding, from out_channels to in_channels.

    ``output_padding`` adds pixels that this convolution does not read, or whose results it drops.
    """

    def lipschitz(self, module: nn.ConvTranspose2d) -> float:
        _check_shape(
            module,
            (module.in_channels, module.out_channels // module.groups, *module.kernel_size),
            outputs=module.out_channels,
        )
        return _filter_bound(module.weight, module.groups)

    def rounding(self, module: nn.ConvTranspose2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        per_group, taps = len(module.weight) // module.groups, prod(module.weight.shape[-2:])
        return products(
            signal,
            length=per_group * taps,
            magnitude=absolute_filter_norm(module.weight, module.groups),
            gain=self.lipschitz(module),
            outputs=prod(shape),
            bias_norm=_bias_norm(module.bias, prod(shape[1:])),
        )


def _check_shape(
    module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, stated: tuple[int, ...], outputs: int | None = None
) -> None:
    """Refuse attributes that contradict the weight, which alone decides what is computed."""
    shape = tuple(module.weight.shape)
    biased = shape[:1] if outputs is None else (outputs,)
    bias = biased if module.bias is None else tuple(module.bias.shape)
    if shape != stated or bias != biased:
        raise ValueError(
            f"{type(module).__name__} has attributes for a weight of shape {stated}, got a weight of shape {shape} and "
            f"a bias of shape {bias}; build the module with the shape of its weight"
        )


def _filter_bound(weight: Tensor, groups: int) -> float:
    """Bound the norm of a convolution by sqrt(kh kw) times the smallest norm of its reshaped filters."""
    norms = [min(map(spectral_norm_bound, matrices)) for matrices in _reshaped(weight, groups)]
    return product_up([max(norms), sqrt(prod(weight.shape[-2:])) * _ROUNDING])


def _reshaped(weight: Tensor, groups: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return three of the 'fantastic four' matrices of each group: (o; i a b), (i; o a b) and (o a; i b)."""
    flat, blocked = reshaped_filters(weight, groups)
    taps = prod(weight.shape[-2:])
    transposed = flat.reshape(groups, flat.shape[1], -1, taps).transpose(1, 2).flatten(2)
    return list(zip(flat, transposed, blocked, strict=True))


def _bias_norm(bias: Tensor | None, times: int) -> float:
    return 0.0 if bias is None else up(euclidean_norm(bias) * sqrt(times))
