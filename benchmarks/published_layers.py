"""Layers of the literature in plain torch, written from the formulas of their papers, as peers of lipnet's.

Each takes ``(in_channels, out_channels, kernel_size, stride)`` and maps (B, in_channels, H, W) to (B, out_channels,
H / stride, W / stride); a stride is space-to-depth. In evaluation, the first call caches everything that depends on the
weights alone. That favours these layers: some published code computes it at every call. They certify nothing, because
their norms are estimates.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Solve larger matrices one at a time: batched LU decompositions hang in some builds of torch 2.14.
_BATCHED = 64


class FrequencyLayer(nn.Module):
    """Circular convolution that multiplies each frequency by a matrix, computed from a filter's response there.

    A subclass defines `matrices`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride, self.channels_in, self.channels_out = stride, in_channels * stride**2, out_channels
        self.weight = nn.Parameter(torch.empty(*self.shape(), kernel_size, kernel_size))
        nn.init.normal_(self.weight, std=1 / sqrt(self.weight[0].numel()))
        self.bias = nn.Parameter(torch.zeros(out_channels, 1, 1))
        self._cached: dict[torch.Size, Tensor] = {}

    def shape(self) -> tuple[int, int]:
        """Return the rows and columns of the filter."""
        return self.channels_out, self.channels_in

    def matrices(self, responses: Tensor) -> Tensor:
        """Map filter responses (n, rows, columns) to matrices (n, channels_out, channels_in)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        maps = F.pixel_unshuffle(x, self.stride)
        size = maps.shape[-2:]
        spectrum = torch.fft.rfft2(maps).permute(2, 3, 1, 0)
        product = self._matrices_of(size) @ spectrum.flatten(0, 1)
        product = product.view(*spectrum.shape[:2], -1, len(maps)).permute(3, 2, 0, 1)
        result: Tensor = torch.fft.irfft2(product, s=size) + self.bias
        return result

    def train(self, mode: bool = True) -> "FrequencyLayer":
        self._cached.clear()
        super().train(mode)
        return self

    def _matrices_of(self, size: torch.Size) -> Tensor:
        if size in self._cached:
            return self._cached[size]
        responses = torch.fft.rfft2(_wrapped(self.weight, size), s=size).permute(2, 3, 0, 1)
        matrices = self.matrices(responses.flatten(0, 1))
        if not self.training:
            self._cached[size] = matrices.detach()
        return matrices


class PublishedCayley(FrequencyLayer):
    """Cayley: Q = [(I + A)^(-1) (I - A); -2 V (I + A)^(-1)] with A = U - U* + V* V, for a response [U; V].

    U is square, and V empty for as many channels in as out. For more channels in than out, Q is the adjoint.

    Source: Trockman & Kolter, ICLR 2021 (arXiv 2104.07167).
    """

    def matrices(self, responses: Tensor) -> Tensor:
        if self.channels_in > self.channels_out:
            return self._tall(responses.mH).mH
        return self._tall(responses)

    def _tall(self, responses: Tensor) -> Tensor:
        columns = responses.shape[-1]
        upper, lower = responses[:, :columns], responses[:, columns:]
        skew = upper - upper.mH + lower.mH @ lower
        identity = torch.eye(columns, dtype=skew.dtype, device=skew.device)
        inverse = _solve(identity + skew, identity.expand_as(skew))
        return torch.cat([inverse @ (identity - skew), -2 * lower @ inverse], dim=1)


class PublishedLOT(FrequencyLayer):
    """LOT: Q = V (V*V)^(-1/2), with the inverse root by ten Newton-Schulz steps.

    Source: Xu et al., NeurIPS 2022 (arXiv 2210.11620).
    """

    steps = 10

    def matrices(self, responses: Tensor) -> Tensor:
        if self.channels_in > self.channels_out:
            return self._tall(responses.mH).mH
        return self._tall(responses)

    def _tall(self, responses: Tensor) -> Tensor:
        gram = responses.mH @ responses
        # The iteration converges for a norm of at most 1.
        scale: Tensor = gram.norm(dim=(-2, -1), keepdim=True)
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        root, inverse = gram / scale, identity.expand_as(gram)
        for _ in range(self.steps):
            step = (3 * identity - inverse @ root) / 2
            root, inverse = root @ step, step @ inverse
        return responses @ inverse / scale.sqrt()


class PublishedBRO(FrequencyLayer):
    """BRO: Q = I - 2 V (V*V + e I)^(-1) V* with V of c x c/2 and c = max(in, out).

    e is 1e-5 times the mean of the diagonal of V*V.
    The input is padded with zero channels, or the output is cut, to the numbers of channels.

    Source: Lai et al., 2025 (arXiv 2505.15174).
    """

    epsilon = 1e-5

    def shape(self) -> tuple[int, int]:
        channels = max(self.channels_in, self.channels_out)
        return channels, max(1, channels // 2)

    def matrices(self, responses: Tensor) -> Tensor:
        gram = responses.mH @ responses
        diagonal = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)[:, None, None]
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        solved = _solve(gram + self.epsilon * diagonal * identity, responses.mH)
        whole = torch.eye(responses.shape[1], dtype=gram.dtype, device=gram.device) - 2 * responses @ solved
        return whole[:, : self.channels_out, : self.channels_in]


class PotentialLayer(nn.Module):
    """Gradient step x - W^T (scale relu(W x + b)) on c = max(in, out) channels. A subclass defines `scale`.

    The input is padded with zero channels, or the output is cut, to the numbers of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride, self.channels_out, self.padding = stride, out_channels, kernel_size // 2
        self.channels = max(in_channels * stride**2, out_channels)
        self.weight = nn.Parameter(torch.empty(self.channels, self.channels, kernel_size, kernel_size))
        nn.init.xavier_normal_(self.weight)
        self.bias = nn.Parameter(torch.zeros(self.channels))
        self._cached: Tensor | None = None

    def scale(self) -> Tensor:
        """Return the factors (channels,) of the hidden maps."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        maps = F.pixel_unshuffle(x, self.stride)
        maps = F.pad(maps, (0, 0, 0, 0, 0, self.channels - maps.shape[1]))
        scale = self.scale() if self._cached is None else self._cached
        if not self.training:
            self._cached = scale.detach()
        hidden = F.conv2d(maps, self.weight, self.bias, padding=self.padding).relu() * scale[:, None, None]
        return (maps - F.conv_transpose2d(hidden, self.weight, padding=self.padding))[:, : self.channels_out]

    def train(self, mode: bool = True) -> "PotentialLayer":
        self._cached = None
        super().train(mode)
        return self


class PublishedCPL(PotentialLayer):
    """CPL: the scale is 2 / ||W||^2, with the norm by one step of power iteration in training, 100 in evaluation.

    Source: Meunier et al., ICML 2022 (arXiv 2110.12690).
    """

    vector: Tensor
    evaluation_steps = 100

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.register_buffer("vector", _unit(torch.randn(1, self.channels, 8, 8)))

    def scale(self) -> Tensor:
        with torch.no_grad():
            for _ in range(1 if self.training else self.evaluation_steps):
                image = F.conv2d(self.vector, self.weight, padding=self.padding)
                back = F.conv_transpose2d(image, self.weight, padding=self.padding)
                self.vector = _unit(back)
        norm: Tensor = F.conv2d(self.vector, self.weight, padding=self.padding).norm()
        return (2 / norm.square()).expand(self.channels)


class PublishedSLL(PotentialLayer):
    """SLL: the scale is 2 / T_i with T_i = sum_j |W W^T|_ij q_j / q_i, summed over all offsets, and q > 0.

    Source: Araujo et al., ICLR 2023 (arXiv 2303.03169).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.q = nn.Parameter(torch.ones(self.channels))

    def scale(self) -> Tensor:
        products = F.conv2d(self.weight, self.weight, padding=self.weight.shape[-1] - 1)
        q = self.q.abs()
        return 2 / (products.abs().sum((2, 3)) * q / q[:, None]).sum(1)


def _wrapped(weight: Tensor, size: torch.Size) -> Tensor:
    """Add up the taps that fall on the same pixel of a circular map smaller than the kernel."""
    for axis, length in zip((-2, -1), size, strict=True):
        if weight.shape[axis] > length:
            missing = -weight.shape[axis] % length
            padded = F.pad(weight, (0, missing) if axis == -1 else (0, 0, 0, missing))
            weight = padded.unflatten(axis, (-1, length)).sum(axis - 1)
    return weight


def _unit(image: Tensor) -> Tensor:
    """Divide an image (1, C, H, W) by its norm."""
    return F.normalize(image, dim=(1, 2, 3))  # type: ignore[arg-type]  # torch documents tuples, but declares an int


def _solve(matrices: Tensor, right: Tensor) -> Tensor:
    if matrices.shape[-1] <= _BATCHED:
        solution: Tensor = torch.linalg.solve(matrices, right)
        return solution
    return torch.stack([torch.linalg.solve(each, other) for each, other in zip(matrices, right, strict=True)])
