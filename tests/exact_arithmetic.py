"""An oracle of rounding: networks evaluated with 300 bits, from the float64 operands that lipnet convolves with.

What is computed with 300 bits differs from exact arithmetic by less than 1e-80. Only the operands are lipnet's: the
filters with their polynomials, the kept matrices, the rows, the normals. All that is done with them is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor, nn

from lipnet.functional import channel_shuffle
from lipnet.layers import (
    SOC,
    BetaAbs,
    Centering,
    ChannelShuffle,
    GroupAndShuffle,
    Householder,
    HouseholderOrder2,
    MaxMin,
    MaxMinPermuted,
    MirrorAverage,
    Normalize,
    NormalizedLinear,
    NormPool2d,
    OrthogonalMixing,
    PatchEmbedding,
    PositionCode,
    Residual,
    ScaledConv2d,
    SOCTranspose,
    SpatialMixing,
    SpatialShift,
)
from lipnet.layers.engines import DenseEngine, ExplicitSpectralEngine, SpectralEngine
from lipnet.layers.frequency import FrequencyLayer
from lipnet.structured import OrthogonalMap
from tests.oracles import convolution_matrix, first_channels_matrix, space_to_depth_matrix, to_numpy

Exact = Any  # arrays of mpmath's numbers
BITS = 300

_NUMBER = np.frompyfunc(mpmath.mpf, 1, 1)


def exact(values: Tensor | np.ndarray) -> Exact:
    """Floats as exact numbers."""
    return _NUMBER(to_numpy(values) if isinstance(values, Tensor) else values.astype(np.float64))


def evaluate(module: nn.Module, x: Exact) -> Exact:
    """The exact function of a module, at exact values of one sample (C, H, W) or (F,)."""
    with mpmath.workprec(BITS):
        return _evaluate(module, x)


def error(model: nn.Module, computed: Tensor, x: Tensor) -> float:
    """The distance of computed results from the exact ones: the largest over samples, in the Euclidean norm."""
    with mpmath.workprec(BITS):
        distances = []
        for result, sample in zip(computed, x, strict=True):
            difference = (exact(result) - _evaluate(model, exact(sample)).reshape(tuple(result.shape))).ravel()
            distances.append(mpmath.sqrt(sum(entry * entry for entry in difference)))
        return float(max(distances))


def _evaluate(module: nn.Module, x: Exact) -> Exact:
    if isinstance(module, nn.Sequential):
        for child in module:
            x = _evaluate(child, x)
        return x
    if isinstance(module, Residual):
        return mpmath.mpf(module.skip) * x + mpmath.mpf(module.branch) * _evaluate(module.body, x)
    if isinstance(module, MirrorAverage):
        return (_evaluate(module.body, x) + _evaluate(module.body, x[..., ::-1])) / 2
    if isinstance(module, GroupAndShuffle):
        for child in (module.shuffle, module.spatial, module.second_shuffle, module.pointwise):
            x = _evaluate(child, x)
        return x
    return _FUNCTIONS[next(kind for kind in type(module).__mro__ if kind in _FUNCTIONS)](module, x)


def _exponential(layer: SOC | SOCTranspose, maps: Exact, sign: int) -> Exact:
    """Apply p(sign J), or the cached matrix, to maps with all channels of the active groups."""
    prepared, size = layer.prepared(), (maps.shape[1], maps.shape[2])
    flat, groups = maps.ravel(), layer.active_groups
    engine = layer.engine_for(1, size, explicit=True)
    if isinstance(engine, DenseEngine):
        with torch.no_grad():
            matrices = engine.evaluate(prepared, size, sign)
        block = matrices.shape[-1]
        rows = flat.reshape(groups, block) if block * groups == flat.size else None
        if rows is None:  # the same at each pixel
            pixels = size[0] * size[1]
            rows = maps.reshape(groups, block, pixels)
        return np.concatenate([exact(m) @ r for m, r in zip(matrices, rows, strict=True)]).reshape(maps.shape)
    if isinstance(engine, ExplicitSpectralEngine):
        with torch.no_grad():
            response = SpectralEngine.evaluate(engine, prepared, size, sign)
        return circular_filter(maps, response)
    jacobian = exact(sign * convolution_matrix(prepared.factored, *size, groups, layer.padding_mode))
    *lower, state = [mpmath.mpf(c) * flat for c in prepared.series.coefficients]
    for term in reversed(lower):
        state = jacobian @ state + term
    return state.reshape(maps.shape)


def circular_filter(maps: Exact, response: Tensor) -> Exact:
    """Convolve maps (c, H, W) by a frequency response (H, W // 2 + 1, groups, out, in), from the definition.

    The real part of the sum over the half spectrum, where frequencies that are not their own conjugates count twice.
    """
    (height, width), (half, groups, out, inner) = maps.shape[1:], response.shape[1:]
    down, across = _waves(height, height), _waves(width, half)
    spectrum = np.einsum("hp,cpq,wq->hwc", down, maps, across, optimize=["einsum_path", (0, 1), (0, 1)])
    real, imaginary = (exact(part.contiguous()) for part in (response.real, response.imag))
    matrices = real + imaginary * mpmath.mpc(0, 1)
    product = np.empty((height, half, groups, out), dtype=object)
    for h, w, g in np.ndindex(product.shape[:3]):
        product[h, w, g] = matrices[h, w, g] @ spectrum[h, w, g * inner : (g + 1) * inner]
    shares = [1 if w == 0 or 2 * w == width else 2 for w in range(half)]
    product = product.reshape(height, half, -1) * np.array(shares).reshape(1, -1, 1)
    result = np.einsum("hp,hwc,wq->cpq", down.conj(), product, across.conj(), optimize=["einsum_path", (0, 1), (0, 1)])
    return np.frompyfunc(lambda value: value.real / (height * width), 1, 1)(result)


def _waves(length: int, frequencies: int) -> Exact:
    """e^{-2 pi i j k / length} for the first frequencies j and all k < length."""
    return np.array(
        [[mpmath.expjpi(mpmath.mpf(-2 * j * k) / length) for k in range(length)] for j in range(frequencies)]
    )


def _with_channels(maps: Exact, channels: int) -> Exact:
    pixels = prod(maps.shape[1:])
    kept = exact(first_channels_matrix(channels, len(maps), pixels)) @ maps.ravel()
    return kept.reshape(channels, *maps.shape[1:])


def _bias(maps: Exact, bias: Tensor | None) -> Exact:
    return maps if bias is None else maps + exact(bias).reshape(-1, *[1] * (maps.ndim - 1))


def _soc(layer: SOC, x: Exact) -> Exact:
    shape, x = x.shape, x.reshape(len(x), *(1, 1, *x.shape[1:])[-2:])
    s, t = layer.stride
    moved = exact(space_to_depth_matrix(*x.shape, layer.stride)) @ x.ravel()
    maps = moved.reshape(len(x) * s * t, x.shape[1] // s, x.shape[2] // t)
    maps = _exponential(layer, _with_channels(maps, layer.active_groups * layer.weight.shape[1]), sign=1)
    result = _bias(_with_channels(maps, layer.out_channels), layer.bias)
    return result.reshape(len(result), *result.shape[4 - len(shape) :]) if len(shape) < 3 else result


def _soc_transpose(layer: SOCTranspose, x: Exact) -> Exact:
    maps = x if layer.input_bias is None else _bias(x, -layer.input_bias)
    maps = _exponential(layer, _with_channels(maps, layer.active_groups * layer.weight.shape[1]), sign=-1)
    s, t = layer.stride
    maps = _with_channels(maps, layer.out_channels * s * t)
    size = (layer.out_channels, maps.shape[1] * s, maps.shape[2] * t)
    return _bias((exact(space_to_depth_matrix(*size, layer.stride).T) @ maps.ravel()).reshape(size), layer.bias)


def _frequency(layer: FrequencyLayer, x: Exact) -> Exact:
    shape, x = x.shape, x.reshape(len(x), *(1, 1, *x.shape[1:])[-2:])
    s, t = layer.stride
    moved = exact(space_to_depth_matrix(*x.shape, layer.stride)) @ x.ravel()
    maps = moved.reshape(len(x) * s * t, x.shape[1] // s, x.shape[2] // t)
    with torch.no_grad():
        (matrices,) = layer.operands((maps.shape[1], maps.shape[2]))
    if matrices.is_complex():
        frame = [k // 2 if layer.padding_mode == "zeros" else 0 for k in layer.kernel_size]
        framed = np.pad(maps, ((0, 0), *((each, each) for each in frame)), constant_values=mpmath.mpf(0))
        down, across = (slice(each, each + n) for each, n in zip(frame, maps.shape[1:], strict=True))
        result = circular_filter(framed, matrices)[:, down, across]
    else:
        grouped = maps.reshape(layer.groups, -1, maps.shape[1] * maps.shape[2])
        products = [exact(matrix) @ pixels for matrix, pixels in zip(matrices, grouped, strict=True)]
        result = np.concatenate(products).reshape(-1, *maps.shape[1:])
    result = _bias(result, layer.bias)
    return result.ravel() if len(shape) < 3 else result


def _conv2d(layer: nn.Conv2d, x: Exact) -> Exact:
    """Convolve by the definition: one product for each tap, group and output pixel; zero padding."""
    (down, across), (high, wide) = layer.padding, layer.kernel_size
    padded = np.pad(x, ((0, 0), (down, down), (across, across)), constant_values=mpmath.mpf(0))
    weight, per_group = exact(layer.weight), len(layer.weight) // layer.groups
    rows, columns = ((x.shape[1] + 2 * down - high) // layer.stride[0] + 1, (x.shape[2] + 2 * across - wide) + 1)
    columns = (x.shape[2] + 2 * across - wide) // layer.stride[1] + 1
    result = np.empty((len(weight), rows, columns), dtype=object)
    for o, u, v in np.ndindex(result.shape):
        start = o // per_group * weight.shape[1]
        patch = padded[
            start : start + weight.shape[1],
            u * layer.stride[0] : u * layer.stride[0] + high,
            v * layer.stride[1] : v * layer.stride[1] + wide,
        ]
        result[o, u, v] = (patch * weight[o]).sum()
    return _bias(result, layer.bias)


def _linear(layer: nn.Linear, x: Exact) -> Exact:
    return _bias(exact(layer.weight) @ x, layer.bias)


def _rows(layer: NormalizedLinear, x: Exact) -> Exact:
    return _bias(exact(layer.rows()) @ x, layer.bias)


def _normalize(layer: Normalize, x: Exact) -> Exact:
    return (x - exact(layer.mean)) / mpmath.mpf(layer.std)


def _norm_pool(layer: NormPool2d, x: Exact) -> Exact:
    size = layer.kernel_size
    windows = x.reshape(len(x), x.shape[1] // size, size, x.shape[2] // size, size)
    return np.frompyfunc(mpmath.sqrt, 1, 1)((windows * windows).sum(axis=(2, 4)))


def _pairs(x: Exact, neighbours: bool) -> tuple[Exact, Exact]:
    return (x[0::2], x[1::2]) if neighbours else (x[: len(x) // 2], x[len(x) // 2 :])


def _of_pairs(first: Exact, second: Exact, neighbours: bool) -> Exact:
    pair = np.stack([first, second], axis=1 if neighbours else 0)
    return pair.reshape(2 * len(first), *first.shape[1:])


def _sort(neighbours: bool) -> Callable[[nn.Module, Exact], Exact]:
    def sorted_pairs(_: nn.Module, x: Exact) -> Exact:
        first, second = _pairs(x, neighbours)
        return _of_pairs(np.maximum(first, second), np.minimum(first, second), neighbours)

    return sorted_pairs


def _householder(layer: Householder, x: Exact) -> Exact:
    first, second = _pairs(x, layer.neighbours)
    half = layer.theta.detach() / 2
    shape = (-1, *[1] * (x.ndim - 1))
    normal = exact(half.sin()).reshape(shape), exact(-half.cos()).reshape(shape)
    overlap = 2 * np.minimum(first * normal[0] + second * normal[1], 0)
    return _of_pairs(first - overlap * normal[0], second - overlap * normal[1], layer.neighbours)


def _householder_order2(layer: HouseholderOrder2, x: Exact) -> Exact:
    """Apply the activation in polar coordinates, by the definition."""
    first, second = _pairs(x, layer.neighbours)
    result = np.empty((2, *first.shape), dtype=object)
    turn = 2 * mpmath.pi
    for place in np.ndindex(first.shape):
        start, a, b = exact(layer.theta[:, place[0]])
        a, b = (max(mpmath.mpf(0), min(angle, turn)) / 2 for angle in (a, b))
        radius = mpmath.hypot(first[place], second[place])
        phi = mpmath.atan2(second[place], first[place]) - start / 2
        phi -= turn * mpmath.floor(phi / turn)
        if phi < a:
            image = phi
        elif phi < a + b:
            image = 2 * a - phi
        elif phi < mpmath.pi + b:
            image = phi - 2 * b
        else:
            image = -phi
        image += start / 2
        result[(0, *place)], result[(1, *place)] = radius * mpmath.cos(image), radius * mpmath.sin(image)
    return _of_pairs(result[0], result[1], layer.neighbours)


def _orthogonal_map(layer: OrthogonalMap, x: Exact) -> Exact:
    """Each factor as a dense matrix, its blocks placed by the permutation that `Mixing` describes."""
    columns = x.reshape(len(x), -1)
    for blocks, (parts, distance) in zip(layer.matrix.blocks(), layer.matrix.mixings, strict=True):
        count, size = blocks.shape[0], blocks.shape[-1]
        run, factor = size // parts, np.zeros((len(x), len(x)))
        for block in range(count):
            outer, inner = divmod(block, distance)
            base = outer * size * distance
            places = [base + (p * distance + inner) * run + q for p in range(parts) for q in range(run)]
            factor[np.ix_(places, places)] = to_numpy(blocks[block])
        columns = exact(factor) @ columns
    return columns.reshape(x.shape)


def _scaled_conv(layer: ScaledConv2d, x: Exact) -> Exact:
    """Convolve with the kernel in use, which has been divided by its norm; circular padding wraps around."""
    with torch.no_grad():
        weight = layer.operands((1, 1))[0]
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, groups=layer.groups)
    plain.weight, plain.bias = nn.Parameter(weight), layer.bias
    rows, columns = layer.padding
    if layer.padding_mode == "circular":
        return _conv2d(plain, np.pad(x, ((0, 0), (rows, rows), (columns, columns)), mode="wrap"))
    plain.padding = layer.padding
    return _conv2d(plain, x)


def _rotation(layer: OrthogonalMixing, x: Exact, transposed: bool = False) -> Exact:
    """Multiply by the factors as dense matrices, with the shuffle as a permutation of the channels."""
    with torch.no_grad():
        factors = layer.matrices()
    channels, size = layer.channels, layer.channels // layer.groups
    order = channel_shuffle(torch.arange(channels).view(1, -1), layer.groups)[0].numpy()
    matrices = []
    for number, blocks in enumerate(factors):
        factor = np.zeros((channels, channels))
        for block in range(layer.groups):
            places = np.arange(block * size, (block + 1) * size)
            # The blocks of the second factor mix the channels that the shuffle gathers.
            places = order[places] if number else places
            factor[np.ix_(places, places)] = to_numpy(blocks[block])
        matrices.append(exact(factor))
    columns = x.reshape(channels, -1)
    for matrix in reversed(matrices) if transposed else matrices:
        columns = (matrix.T if transposed else matrix) @ columns
    return columns.reshape(x.shape)


def _shift(layer: SpatialShift, x: Exact) -> Exact:
    each, result = int(layer.share * len(x)), x.copy()
    for part, (axis, step) in enumerate([(1, -1), (1, 1), (2, -1), (2, 1)]):
        place = slice(part * each, (part + 1) * each)
        result[place] = np.roll(x[place], step, axis)
    return result


def _spatial_mixing(layer: SpatialMixing, x: Exact) -> Exact:
    return _rotation(layer.rotation, _shift(layer.shift, _rotation(layer.rotation, x)), transposed=True)


def _patches(layer: PatchEmbedding, x: Exact) -> Exact:
    size = layer.patch_size
    moved = exact(space_to_depth_matrix(*x.shape, size)) @ x.ravel()
    patches = moved.reshape(len(x) * size**2, -1)
    if layer.rotation:
        patches = exact(layer.components) @ patches
    return _with_channels(patches.reshape(len(patches), x.shape[1] // size, x.shape[2] // size), layer.out_channels)


def _shuffle(layer: ChannelShuffle, x: Exact) -> Exact:
    order = channel_shuffle(torch.arange(len(x)).view(1, -1), layer.groups, layer.paired)[0].numpy()
    return x[np.argsort(order)] if layer.inverted else x[order]


def _windows(layer: nn.MaxPool2d | nn.AvgPool2d, x: Exact, fill: Any) -> Exact:
    """Gather the pixels of each window, by its definition: (C, rows, columns, kh kw)."""
    pairs = [getattr(layer, name, 1) for name in ("kernel_size", "stride", "padding", "dilation")]
    kernel, stride, padding, dilation = ((each, each) if isinstance(each, int) else each for each in pairs)
    padded = np.pad(x, ((0, 0), *((each, each) for each in padding)), constant_values=fill)
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows, columns = ((padded.shape[axis + 1] - span[axis]) // stride[axis] + 1 for axis in (0, 1))
    result = np.empty((len(x), rows, columns, kernel[0] * kernel[1]), dtype=object)
    for u, v, a, b in np.ndindex(rows, columns, *kernel):
        place = (u * stride[0] + a * dilation[0], v * stride[1] + b * dilation[1])
        result[:, u, v, a * kernel[1] + b] = padded[:, place[0], place[1]]
    return result


def _max_pool(layer: nn.MaxPool2d, x: Exact) -> Exact:
    return _windows(layer, x, mpmath.mpf("-inf")).max(axis=3)


def _average_pool(layer: nn.AvgPool2d, x: Exact) -> Exact:
    windows = _windows(layer, x, mpmath.mpf(0))
    return windows.sum(axis=3) / mpmath.mpf(windows.shape[3])


def _conv_transpose2d(layer: nn.ConvTranspose2d, x: Exact) -> Exact:
    """Scatter each input pixel, multiplied by the filter, then cut off the padding."""
    weight, groups = exact(layer.weight), layer.groups
    into, outof = len(weight) // groups, weight.shape[1]
    (s, t), (d, e), (high, wide) = layer.stride, layer.dilation, layer.kernel_size
    size = [(x.shape[1 + a] - 1) * layer.stride[a] + layer.dilation[a] * (layer.kernel_size[a] - 1) + 1 for a in (0, 1)]
    result = np.full((groups * outof, *(n + extra for n, extra in zip(size, layer.output_padding, strict=True))), _ZERO)
    for c, o, u, v, a, b in np.ndindex(len(weight), outof, *x.shape[1:], high, wide):
        result[c // into * outof + o, u * s + a * d, v * t + b * e] += x[c, u, v] * weight[c, o, a, b]
    (down, across) = layer.padding
    return _bias(result[:, down : result.shape[1] - down, across : result.shape[2] - across], layer.bias)


def _batch_norm(layer: nn.BatchNorm2d, x: Exact) -> Exact:
    shape = (-1, *[1] * (x.ndim - 1))
    root = np.frompyfunc(mpmath.sqrt, 1, 1)(exact(layer.running_var) + mpmath.mpf(layer.eps))
    normalised = (x - exact(layer.running_mean).reshape(shape)) / root.reshape(shape)
    return normalised if layer.weight is None else _bias(normalised * exact(layer.weight).reshape(shape), layer.bias)


def _zero_pad(layer: nn.ZeroPad2d, x: Exact) -> Exact:
    left, right, top, bottom = layer.padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=_ZERO)


def _entrywise(function: Callable[[Any, nn.Module], Any]) -> Callable[[nn.Module, Exact], Exact]:
    return lambda layer, x: np.frompyfunc(lambda entry: function(entry, layer), 1, 1)(x)


def _gelu(x: Any, layer: nn.GELU) -> Any:
    if layer.approximate == "none":
        return x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2
    inner = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(44715) / 10**6 * x**3)
    return x * (1 + mpmath.tanh(inner)) / 2


def _softplus(x: Any, layer: nn.Softplus) -> Any:
    return mpmath.log1p(mpmath.exp(layer.beta * x)) / layer.beta


def _means(x: Exact, height: int, width: int) -> Exact:
    windows = x.reshape(len(x), x.shape[1] // height, height, x.shape[2] // width, width)
    return windows.sum(axis=(2, 4)) / mpmath.mpf(height * width)


_ZERO = mpmath.mpf(0)

_FUNCTIONS: dict[type[nn.Module], Callable[..., Exact]] = {
    SOC: _soc,
    SOCTranspose: _soc_transpose,
    FrequencyLayer: _frequency,
    nn.Conv2d: _conv2d,
    nn.Linear: _linear,
    NormalizedLinear: _rows,
    Normalize: _normalize,
    NormPool2d: _norm_pool,
    MaxMin: _sort(neighbours=False),
    MaxMinPermuted: _sort(neighbours=True),
    Householder: _householder,
    HouseholderOrder2: _householder_order2,
    OrthogonalMap: _orthogonal_map,
    BetaAbs: lambda layer, x: np.concatenate([abs(x[: round(layer.beta * len(x))]), x[round(layer.beta * len(x)) :]]),
    Centering: lambda layer, x: _bias(x, -layer.mean),
    OrthogonalMixing: lambda layer, x: _bias(_rotation(layer, x), layer.bias),
    PatchEmbedding: _patches,
    PositionCode: lambda layer, x: x + exact((layer.rows + layer.columns).detach()),
    ScaledConv2d: _scaled_conv,
    SpatialMixing: _spatial_mixing,
    SpatialShift: _shift,
    ChannelShuffle: _shuffle,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ConvTranspose2d: _conv_transpose2d,
    nn.ZeroPad2d: _zero_pad,
    nn.Upsample: lambda layer, x: x.repeat(int(layer.scale_factor[0]), axis=1).repeat(
        int(layer.scale_factor[1]), axis=2
    ),
    nn.PReLU: lambda layer, x: np.where(x > 0, x, exact(layer.weight).reshape(-1, *[1] * (x.ndim - 1)) * x),
    nn.ELU: _entrywise(lambda x, layer: x if x > 0 else layer.alpha * mpmath.expm1(x)),
    nn.GELU: _entrywise(_gelu),
    nn.SiLU: _entrywise(lambda x, _: x / (1 + mpmath.exp(-x))),
    nn.Sigmoid: _entrywise(lambda x, _: 1 / (1 + mpmath.exp(-x))),
    nn.Softplus: _entrywise(_softplus),
    nn.AdaptiveAvgPool2d: lambda _, x: _means(x, *x.shape[1:]),
    nn.Flatten: lambda _, x: x.ravel(),
    nn.Identity: lambda _, x: x,
    nn.Dropout: lambda _, x: x,
    nn.ReLU: lambda _, x: np.maximum(x, 0),
    nn.LeakyReLU: lambda layer, x: np.where(x > 0, x, mpmath.mpf(layer.negative_slope) * x),
    nn.Tanh: lambda _, x: np.frompyfunc(mpmath.tanh, 1, 1)(x),
}
