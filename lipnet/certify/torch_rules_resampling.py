"""Rules of torch's pooling, padding and upsampling: bound and rounding of each side by side. Windows may overlap."""

from fractions import Fraction
from math import gcd, prod, sqrt

from torch import nn

from lipnet.certify.rules import Rule, rule
from lipnet.functional import square_root_up
from lipnet.functional.rounding_error import Signal, Step, exact, products, up

_OneOrMore = int | tuple[int, ...]
# Factors whose reciprocals are exact.
_FACTORS = tuple(2**exponent for exponent in range(11))


@rule(nn.AvgPool2d)
class _AvgPool2d(Rule):
    def lipschitz(self, module: nn.AvgPool2d) -> float:
        """Return the root of the product over both directions of sum_j max(0, k - |j| s) / k^2.

        In one direction, let A be the matrix of the pooling. Two windows that are j strides apart share
        max(0, k - |j| s) pixels, so A A^T has the entries max(0, k - |j| s) / k^2. Its norm is at most their sum, and
        close to it on long rows. Without overlap the result is 1 / sqrt(n) for windows of n pixels. Zero padding
        leaves columns of A out.
        """
        kernel, stride, padding = (_pair(each) for each in (module.kernel_size, _stride(module), module.padding))
        if module.ceil_mode or module.divisor_override is not None:
            raise ValueError(f"{module} has ceil_mode or divisor_override, for which there is no rule")
        if padding != (0, 0) and not module.count_include_pad:
            raise ValueError(
                f"{module} has padding that does not count, for which there is no rule; set count_include_pad=True"
            )
        shares = prod(
            sum(max(0, k - abs(j) * s) for j in range(-k, k + 1)) for k, s in zip(kernel, stride, strict=True)
        )
        return square_root_up(Fraction(shares, prod(kernel) ** 2))

    def rounding(self, module: nn.AvgPool2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        gain = self.lipschitz(module)
        # The matrix has no negative entries, so the norm of its absolute values is its own norm.
        return products(signal, length=prod(_pair(module.kernel_size)), magnitude=gain, gain=gain, outputs=prod(shape))


@rule(nn.AdaptiveAvgPool2d)
class _AdaptiveAvgPool2d(Rule):
    def lipschitz(self, module: nn.AdaptiveAvgPool2d) -> float:
        if module.output_size not in (1, (1, 1)):
            raise ValueError(f"{module} has windows that may overlap; the rule covers an output of 1 x 1")
        return 1.0

    def rounding(self, module: nn.AdaptiveAvgPool2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        # An input (B, H, W) has no channels; torch pools each (H, W) of it.
        count = prod(signal.shape[-2:])
        gain = self.lipschitz(module)
        return products(signal, length=count, magnitude=up(1 / sqrt(count)), gain=gain, outputs=prod(shape))


@rule(nn.MaxPool2d)
class _MaxPool2d(Rule):
    def lipschitz(self, module: nn.MaxPool2d) -> float:
        """Return the root of the largest number of windows that read a pixel.

        The maximum of a window changes by no more than one of its pixels, and a pixel counts once in each window that
        reads it. In one direction, with dilation d and stride s, tap a of a window can read pixel x if a d = x modulo
        s. This holds for every s / gcd(s, d)-th of the k taps.
        """
        if module.return_indices:
            raise ValueError(f"{module} returns indices, for which there is no rule")
        kernel, stride, dilation = (_pair(each) for each in (module.kernel_size, _stride(module), module.dilation))
        period = [s // gcd(s, d) for s, d in zip(stride, dilation, strict=True)]
        return square_root_up(Fraction(prod(-(-k // p) for k, p in zip(kernel, period, strict=True))))

    def rounding(self, module: nn.MaxPool2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Return an exact step; refuse windows of padding alone, whose maximum of -infinity no norm covers."""
        settings = (_pair(each) for each in (module.kernel_size, _stride(module), module.padding, module.dilation))
        for size, windows, k, s, p, d in zip(signal.shape[-2:], shape[-2:], *settings, strict=True):
            if not all(any(0 <= u * s - p + a * d < size for a in range(k)) for u in range(windows)):
                maps = " x ".join(map(str, signal.shape[-2:]))
                raise ValueError(
                    f"{module} has windows of padding alone on maps of {maps}, whose maximum is -infinity; use less "
                    "padding or dilation"
                )
        return exact(signal, gain=self.lipschitz(module))


@rule(nn.ZeroPad2d)
class _ZeroPad2d(Rule):
    """Padding adds zeros around the feature maps; negative padding drops rows and columns."""

    def lipschitz(self, module: nn.ZeroPad2d) -> float:
        if module.value != 0 or len(module.padding) != 4:
            raise ValueError(
                f"ZeroPad2d must pad two dimensions with 0, got padding {module.padding} and value {module.value}"
            )
        return 1.0

    def rounding(self, module: nn.ZeroPad2d, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)


@rule(nn.Upsample, nn.UpsamplingNearest2d)
class _Upsample(Rule):
    """Mode "nearest" with scale_factor=(s, t) repeats each pixel s x t times."""

    def lipschitz(self, module: nn.Upsample) -> float:
        """Return sqrt(s t).

        torch multiplies positions by the rounded reciprocal of a factor, which is only exact for powers of two. A
        single factor is refused: it applies to every dimension, and the module does not know how many there are.
        """
        factors, name = module.scale_factor, type(module).__name__
        if module.mode != "nearest" or module.size is not None:
            raise ValueError(
                f"{name} has mode {module.mode!r} and size {module.size}; the rule covers 'nearest', no size"
            )
        if not isinstance(factors, tuple) or any(factor not in _FACTORS for factor in factors):
            raise ValueError(
                f"{name} has scale_factor {factors}; the rule covers a power of two for each dimension, such as "
                "scale_factor=(2, 2)"
            )
        return square_root_up(Fraction(prod(map(int, factors))))

    def rounding(self, module: nn.Upsample, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal, gain=self.lipschitz(module))


def _stride(module: nn.AvgPool2d | nn.MaxPool2d) -> _OneOrMore:
    """Return the stride that torch uses: the kernel's size, if none is set."""
    return module.kernel_size if module.stride is None else module.stride


def _pair(size: _OneOrMore) -> tuple[int, ...]:
    """Return the size in both directions; torch takes one number for both."""
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return sizes * 2 if len(sizes) == 1 else sizes
