"""Centring of feature maps by a running mean."""

import torch
import torch.distributed as dist
from torch import Tensor

from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import for_channels
from lipnet.layers.base import LipschitzModule


class Centering(LipschitzModule):
    r"""Subtraction of a running mean from each channel, without division: :math:`y = x - m`.

    In training, each batch first moves the mean, which receives no gradient:

    .. math:: m_t = (1 - \mu_t)\,m_{t-1} + \mu_t\,\mathrm{mean}(x), \qquad \mu_t = \max(\mu, 1 / t)

    so that the first batch sets it. mean(x) is the mean over batch and pixels, and over the batches of all processes of
    a distributed training, so that their networks stay the same. In evaluation, m is frozen: the layer is
    a shift, which changes no Lipschitz constant.

    Args:
        channels: C.
        momentum: mu, in (0, 1].
        device, dtype: of the mean.

    Shape:
        (B, C, ...) to the same shape.

    Raises:
        ValueError: for a momentum out of range, and for inputs with another number of channels.

    Source: the centring of LiResNet (arXiv 2301.12549) and BRONet (arXiv 2505.15174), without a standard deviation.

    Example:
        >>> layer = Centering(1, momentum=0.5)
        >>> layer(torch.tensor([[1.0], [3.0]])).flatten().tolist(), layer.mean.item()
        ([-1.0, 1.0], 2.0)
    """

    mean: Tensor
    batches: Tensor

    def __init__(
        self,
        channels: int,
        momentum: float = 0.1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be in (0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels, device=device, dtype=dtype))
        self.register_buffer("batches", torch.zeros((), device=device, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != len(self.mean):
            raise ValueError(f"Centering needs an input of shape (B, {len(self.mean)}, ...), got {tuple(x.shape)}")
        if self.training:
            self._update(x.detach())
        return x - for_channels(self.mean, x)

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        self.batches += 1
        # Computed on the device, so that training does not wait for it.
        weight = self.batches.to(self.mean.dtype).reciprocal().clamp_min(self.momentum)
        batch_mean = x.to(self.mean.dtype).transpose(0, 1).flatten(1).mean(dim=1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(batch_mean)
            batch_mean /= dist.get_world_size()
        self.mean.lerp_(batch_mean, weight)

    def lipschitz_bound(self) -> float:
        """Return 1: in evaluation the layer is a shift."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the subtraction."""
        return addition(signal, self.mean, signal.entries // len(self.mean))

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, momentum={self.momentum:g}"
